"""A neighbour on the wire of a box's second card, who speaks in Ethernet frames: so that every port can be tried, in
both families, without a network of this machine. It answers who looks for it, tells the time (NTP) and the address of
every name (DNS), is a way to what is behind it, and scans."""

import random
import socket
import struct
import threading
import time
from pathlib import Path

from machine import MACS, Failed

BOX_MAC = bytes.fromhex(MACS[1].replace(":", ""))
OUR_MAC = bytes.fromhex("02005e1000fe")
# What it and the box are configured with; the link-local ones are there without (RFC 4291, appendix A).
UNTAGGED = {"192.0.2.1", "2001:db8:7::1", "fe80::1"}
BOX, BOX6, BOX_LOCAL = "192.0.2.7", "2001:db8:7::7", "fe80::5eff:fe10:2"
# On a VLAN of the same wire.
TAG = 7
TAGGED, BOX_TAGGED = "198.51.100.1", "198.51.100.7"
# Behind the neighbour, who is the way to it; and the name that it has, as every name.
FAR = "203.0.113.9"
OURS = UNTAGGED | {TAGGED, FAR}
CARD = f"""
[[network.interfaces]]
mac = "{MACS[0]}"
[[network.interfaces]]
mac = "{MACS[1]}"
addresses = ["{BOX}/24", "{BOX6}/64"]
"""
VLAN = f"""
[[network.interfaces.vlan]]
id = {TAG}
addresses = ["{BOX_TAGGED}/24"]
"""

ARP, IP4, IP6, DOT1Q = 0x0806, 0x0800, 0x86DD, 0x8100
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
SYN, RST, SYN_ACK = 0x02, 0x04, 0x12
# Seconds from 1900 to 1970.
NTP_EPOCH = 2_208_988_800
# Probes between two pings, which are all answered when none of the probes is lost.
BETWEEN_PINGS = 500


def packed(address):
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def text(address):
    return socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ethernet(source, kind):
    """The head of a frame to the box, with a tag where this address of ours is on the VLAN (IEEE 802.1Q)."""
    tag = struct.pack("!HH", DOT1Q, TAG) if source == TAGGED else b""
    return BOX_MAC + OUR_MAC + tag + struct.pack("!H", kind)


def frame(source, target, protocol, body):
    """A whole frame to the box. `body` has a checksum of 0 where its protocol has one."""
    start = ethernet(source, IP6 if ":" in source else IP4)
    source, target = packed(source), packed(target)
    place = {TCP: 16, UDP: 6, ICMP: 2, ICMP6: 2}[protocol]
    pseudo = b"" if protocol == ICMP else source + target + struct.pack("!II", len(body), protocol)
    body = body[:place] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[place + 2 :]
    if len(source) == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + source + target
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        return start + head + body
    # Neighbours are believed at this hop limit alone (RFC 4861 §6.1).
    head = struct.pack("!IHBB", 6 << 28, len(body), protocol, 255) + source + target
    return start + head + body


def datagram(source, port, target, to, content):
    """A whole frame with UDP (RFC 768)."""
    return frame(source, target, UDP, struct.pack("!HHHH", port, to, 8 + len(content), 0) + content)


class Neighbour:
    """Plugged into a box by `Machine.start(wire=...)`; `folder` is the box's."""

    def __init__(self, folder):
        self.paths = [Path(folder) / "wire", Path(folder) / "wire-box"]
        for path in self.paths:
            path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.paths[0]))
        # (protocol, address of the box, its port) -> flags of TCP, 0 of UDP; and what it called unreachable.
        self.heard = {}
        self.unreachable = set()
        self.pongs = set()
        self.asked_time = 0
        self.asked_names = set()
        threading.Thread(target=self.listen, daemon=True).start()

    def netdev(self):
        ours, box = self.paths
        box.unlink(missing_ok=True)
        return f"dgram,id=wire,local.type=unix,local.path={box},remote.type=unix,remote.path={ours}"

    def close(self):
        self.socket.close()

    def send(self, data):
        try:
            # Waits while the box does not keep up.
            self.socket.sendto(data, str(self.paths[1]))
        except OSError as error:
            raise Failed(f"the wire to the box is cut: {error}") from error

    def listen(self):
        while True:
            try:
                data = self.socket.recv(65536)
            except OSError:
                return
            try:
                self.hear(data)
            except (struct.error, IndexError, Failed):
                # Not a whole frame, or the box is gone.
                continue

    def hear(self, data):
        kind, tag = struct.unpack_from("!HH", data, 12)
        here = UNTAGGED
        if kind == DOT1Q:
            if tag & 0xFFF != TAG:
                return
            here = {TAGGED}
            data = data[:12] + data[16:]
            (kind,) = struct.unpack_from("!H", data, 12)
        if kind == ARP:
            operation, _, sender, _, target = struct.unpack_from("!H6s4s6s4s", data, 20)
            if operation == 1 and text(target) in here:
                answer = struct.pack("!HHBBH", 1, IP4, 6, 4, 2) + OUR_MAC + target + BOX_MAC + sender
                self.send(ethernet(text(target), ARP) + answer)
        elif kind == IP4 and text(data[30:34]) in here | {FAR}:
            length = (data[14] & 15) * 4
            self.hear_packet(data[23], text(data[26:30]), text(data[30:34]), data[14 + length :])
        elif kind == IP6:
            self.hear_packet(data[20], text(data[22:38]), text(data[38:54]), data[54:])

    def hear_packet(self, protocol, source, target, body):
        if protocol == TCP:
            port, _, _, acknowledged = struct.unpack_from("!HHII", body)
            self.heard[protocol, source, port] = self.heard.get((protocol, source, port), 0) | body[13]
            if body[13] & SYN_ACK == SYN_ACK:
                # No connection stays half open.
                (to,) = struct.unpack_from("!H", body, 2)
                back = struct.pack("!HHIIBBHHH", to, port, acknowledged, 0, 0x50, RST, 0, 0, 0)
                self.send(frame(target, source, TCP, back))
        elif protocol == UDP:
            port, to = struct.unpack_from("!HH", body)
            if to == 123 and target in OURS:
                self.tell_time(source, target, port, body[8:])
            elif to == 53 and target in OURS:
                self.tell_address(source, target, port, body[8:])
            elif target in OURS:
                self.heard[protocol, source, port] = 0
        elif protocol == ICMP and body[0] == 0 or protocol == ICMP6 and body[0] == 129:
            self.pongs.add(struct.unpack_from("!H", body, 6)[0])
        elif protocol == ICMP and body[0] == 3 or protocol == ICMP6 and body[0] == 1:
            inner = body[8 + (body[8] & 15) * 4 :] if protocol == ICMP else body[48:]
            self.unreachable.add((source, struct.unpack_from("!H", inner, 2)[0]))
        elif protocol == ICMP6 and body[0] == 135 and text(body[8:24]) in OURS and source != "::":
            # A neighbour solicitation; the answer is solicited and overrides (RFC 4861 §4.4).
            answer = struct.pack("!BBHI", 136, 0, 0, 0x6000_0000) + body[8:24] + b"\2\1" + OUR_MAC
            self.send(frame(text(body[8:24]), source, ICMP6, answer))

    def tell_time(self, source, target, port, question):
        """The time of this machine (RFC 5905 §7.3)."""
        now = time.time() + NTP_EPOCH
        stamp = struct.pack("!II", int(now), int(now % 1 * (1 << 32)))
        version = question[0] >> 3 & 7
        head = struct.pack("!BBbbII4s", version << 3 | 4, 1, question[2], -20, 0, 1 << 8, b"TEST")
        self.send(datagram(target, 123, source, port, head + stamp + question[40:48] + stamp + stamp))
        self.asked_time += 1

    def tell_address(self, source, target, port, question):
        """Every name is FAR's (RFC 1035 §4.1); nobody has an address of IPv6."""
        end = question.index(b"\0", 12) + 5
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        self.asked_names.add(".".join(labels))
        (kind,) = struct.unpack_from("!H", question, end - 4)
        found = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + packed(FAR) if kind == 1 else b""
        head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, 1 if found else 0, 0, 0)
        self.send(datagram(target, 53, source, port, head + question[12:end] + found))

    def ping(self, box, number):
        kind, protocol = (128, ICMP6) if ":" in box else (8, ICMP)
        self.send(frame(self.facing(box), box, protocol, struct.pack("!BBHHH", kind, 0, 0, 7, number)))

    def reaches(self, box, seconds=60):
        """Waits until the box answers a ping."""
        end = time.monotonic() + seconds
        self.pongs.clear()
        while not self.pongs:
            if time.monotonic() > end:
                raise Failed(f"{box} does not answer a ping")
            self.ping(box, 0)
            time.sleep(1)

    @staticmethod
    def facing(box):
        """Which of our addresses a box sees."""
        if box == BOX_TAGGED:
            return TAGGED
        return "fe80::1" if box.startswith("fe80") else "2001:db8:7::1" if ":" in box else "192.0.2.1"

    def try_ports(self, box, protocol, ports, body_of, source=None):
        """Probes in a random order, with pings between them that tell whether the box hears it all."""
        self.pongs.clear()
        ports = list(ports)
        random.shuffle(ports)
        pings = 0
        for place, port in enumerate(ports):
            self.send(frame(source or self.facing(box), box, protocol, body_of(port)))
            if place % BETWEEN_PINGS == 0:
                # The box answers 50 a second.
                time.sleep(0.03)
                pings += 1
                self.ping(box, pings)
        time.sleep(3)
        lost = pings - len(self.pongs)
        if lost > pings // 50:
            raise Failed(f"{box}: of {pings} pings between the probes {lost} were not answered")

    def tcp(self, box, ports, client=None):
        """Ports that take connections, of this client, and ports that refuse them, which a firewall that drops has none
        of."""
        source = random.randrange(20_000, 60_000)
        self.heard.clear()
        self.unreachable.clear()
        sequence = random.getrandbits(32)
        # A maximum segment size, as everybody sends it.
        options = struct.pack("!BBH", 2, 4, 1400)
        self.try_ports(box, TCP, ports, lambda port: struct.pack(
            "!HHIIBBHHH", source, port, sequence, 0, 0x60, SYN, 65535, 0, 0) + options, client)  # fmt: skip
        answers = {port: flags for (protocol, address, port), flags in list(self.heard.items())
                   if (protocol, address) == (TCP, box)}  # fmt: skip
        opened = {port for port, flags in answers.items() if flags & SYN_ACK == SYN_ACK}
        return opened, set(answers) - opened | {port for address, port in list(self.unreachable) if address == box}

    def udp(self, box, ports):
        """Ports that answer a question of a protocol that is spoken there, or say that they are shut."""
        self.heard.clear()
        self.unreachable.clear()

        def body_of(port):
            question = QUESTIONS.get(port, b"\0" * 16)
            return struct.pack("!HHHH", 40_000, port, 8 + len(question), 0) + question

        self.try_ports(box, UDP, ports, body_of)
        answered = {port for protocol, address, port in list(self.heard) if (protocol, address) == (UDP, box)}
        return answered | {port for address, port in list(self.unreachable) if address == box}


DNS = bytes.fromhex("000101000001000000000000") + b"\x09localhost\0" + bytes.fromhex("00010001")
QUESTIONS = {
    53: DNS, 5353: DNS, 5355: DNS,
    123: b"\x23" + b"\0" * 47,
    # BEP 5 and BEP 15.
    6881: b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe",
    6882: b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe",
    6969: bytes.fromhex("0000041727101980") + b"\0\0\0\0abcd",
    1900: b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n',
}  # fmt: skip
# Where services of a Linux machine listen, and this node's.
USUAL_UDP = [*range(1, 1024), 1194, 1900, 2049, 2855, 3702, 4500, 5060, 5353, 5355, 6771, 6881, 6882, 6969, 8125, 11211,
             41641, 51820]  # fmt: skip
