"""libtorrent, as a peer and as a second opinion. It is asked by one JSON object in its only argument
and answers with lines of JSON on standard output:

    {"mode": "create", "path", "out", "version": "v1" | "v2" | "hybrid", "piece_length", "trackers",
     "web_seeds", "private"}
        makes a torrent of a file or folder; one line that describes it
    {"mode": "show", "torrent"}
        one line that describes a torrent, or {"error"} where libtorrent refuses it
    {"mode": "fetch", "torrent" or "magnet", "dir", "peers": ["ADDRESS:PORT"], "seconds", ...}
        fetches all of it into the folder and checks what is on the disk; one line when it is done, or
        when the seconds have passed
    {"mode": "seed", "torrents", "dir", ...}
        one line with its addresses, and when standard input closes one with what it has used

More keys of "fetch" and "seed", with what they are when left out:
    listen: ["127.0.0.1:0", "[::1]:0"]  where it binds
    encryption: "any"        "off" neither offers nor accepts it; "rc4" insists on encrypted content,
                             "handshake" on an encrypted handshake with content in clear (BEP 8)
    tcp: true, utp: false    transports
    trackers: false          uses the trackers that the torrent names
    dht: none                takes part in the DHT (BEP 5) that these nodes are in, ["ADDRESS:PORT"];
                             with an empty list it is the first node of one
    lsd: false               uses local service discovery (BEP 14)
    web_seeds: false         uses the web seeds that the torrent names
    upload: true             false: unchokes nobody
    settings: {}             libtorrent's own settings, in place of those above
and of "seed" alone:
    super_seeding: false     BEP 16
"""

import json
import os
import sys
import time

import libtorrent as lt

# The flag under which libtorrent stores that a peer speaks version 2: its first handshake then
# carries the truncated v2 info-hash. Internal to it, like its name pex_lt_v2.
SPEAKS_V2 = 0x80
SPEAKS_UTP = 0x04

ENCRYPTION = {
    "any": (lt.enc_policy.pe_enabled, lt.enc_level.pe_both),
    "off": (lt.enc_policy.pe_disabled, lt.enc_level.pe_both),
    "rc4": (lt.enc_policy.pe_forced, lt.enc_level.pe_rc4),
    "handshake": (lt.enc_policy.pe_forced, lt.enc_level.pe_plaintext),
}

VERSIONS = {
    "v1": lt.create_torrent.v1_only,
    "v2": lt.create_torrent.v2_only,
    # Padding after the last file says nothing, and others leave it out.
    "hybrid": lt.create_torrent.canonical_files_no_tail_padding,
}


def say(answer):
    print(json.dumps(answer), flush=True)


def describe(info):
    hashes = info.info_hashes()
    files = info.files()
    listed = []
    for at in range(files.num_files()):
        if files.file_flags(at) & lt.file_flags_t.flag_pad_file:
            continue
        root = files.root(at) if hashes.has_v2() and files.file_size(at) > 0 else None
        listed.append({
            "path": files.file_path(at).replace(os.sep, "/"),
            "length": files.file_size(at),
            "root": str(root) if root is not None else None,
        })
    return {
        "name": info.name(),
        "info_hash_v1": str(hashes.v1) if hashes.has_v1() else None,
        "info_hash_v2": str(hashes.v2) if hashes.has_v2() else None,
        "piece_length": info.piece_length(),
        "pieces": info.num_pieces(),
        # With the pad files of a hybrid torrent.
        "length": info.total_size(),
        "files": listed,
        "private": info.priv(),
        "trackers": [tracker.url for tracker in info.trackers()],
        "web_seeds": [seed["url"] for seed in info.web_seeds()],
    }


def found(folder):
    """The files of a folder, always in the same order: as a torrent of version 1 lists them."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from found(entry.path)
        else:
            yield entry.path


def create(asked):
    path = os.path.abspath(asked["path"])
    parent = os.path.dirname(path)
    files = lt.file_storage()
    for file in [path] if os.path.isfile(path) else found(path):
        files.add_file(os.path.relpath(file, parent), os.path.getsize(file))
    torrent = lt.create_torrent(files, asked.get("piece_length", 0), VERSIONS[asked.get("version", "hybrid")])
    for tier, tracker in enumerate(asked.get("trackers", [])):
        torrent.add_tracker(tracker, tier)
    for seed in asked.get("web_seeds", []):
        torrent.add_url_seed(seed)
    torrent.set_priv(asked.get("private", False))
    lt.set_piece_hashes(torrent, parent)
    encoded = lt.bencode(torrent.generate())
    with open(asked["out"], "wb") as out:
        out.write(encoded)
    say(describe(lt.torrent_info(encoded)))


def show(asked):
    with open(asked["torrent"], "rb") as file:
        encoded = file.read()
    try:
        info = lt.torrent_info(encoded)
    except RuntimeError as error:
        say({"error": str(error)})
        return
    say(describe(info))


def session(asked):
    policy, level = ENCRYPTION[asked.get("encryption", "any")]
    utp = asked.get("utp", False)
    tcp = asked.get("tcp", True)
    settings = {
        "listen_interfaces": ",".join(asked.get("listen", ["127.0.0.1:0", "[::1]:0"])),
        "enable_dht": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_outgoing_utp": utp,
        "enable_incoming_utp": utp,
        "enable_outgoing_tcp": tcp,
        "enable_incoming_tcp": tcp,
        "in_enc_policy": policy,
        "out_enc_policy": policy,
        "allowed_enc_level": level,
        "prefer_rc4": level == lt.enc_level.pe_rc4,
        # Every peer of a scenario has the same address.
        "allow_multiple_connections_per_ip": True,
        "connections_limit": 8000,
        # Who gave the last byte is to be seen.
        "close_redundant_connections": False,
        "listen_queue_size": 1000,
        "unchoke_slots_limit": -1,
        # A node that has just started may not listen yet.
        "min_reconnect_time": 1,
        "max_failcount": 30,
        "alert_mask": lt.alert_category.error | lt.alert_category.status | lt.alert_category.connect,
        "alert_queue_size": 20000,
    }
    if "dht" in asked:
        settings.update({
            "enable_dht": True,
            "dht_bootstrap_nodes": ",".join(asked["dht"]),
            # All nodes of a scenario have the same address, and one that says nothing of where it is.
            "dht_restrict_routing_ips": False,
            "dht_restrict_search_ips": False,
            "dht_ignore_dark_internet": False,
            "dht_prefer_verified_node_ids": False,
            "dht_block_ratelimit": 10000,
        })
    settings["enable_lsd"] = asked.get("lsd", False)
    if not asked.get("upload", True):
        settings.update({"unchoke_slots_limit": 0, "allowed_fast_set_size": 0})
    settings.update(asked.get("settings", {}))
    node = lt.session(settings)
    # Without this, peers on the local network are unchoked whatever the limit says.
    node.set_peer_class_filter(lt.ip_filter())
    return node


def parameters(asked, torrent=None):
    if torrent is None:
        wanted = lt.parse_magnet_uri(asked["magnet"])
    else:
        wanted = lt.add_torrent_params()
        wanted.ti = lt.torrent_info(torrent)
    wanted.save_path = asked["dir"]
    flags = wanted.flags & ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    flags |= lt.torrent_flags.disable_pex
    if "dht" not in asked:
        flags |= lt.torrent_flags.disable_dht
    if not asked.get("lsd", False):
        flags |= lt.torrent_flags.disable_lsd
    if not asked.get("trackers", False):
        wanted.trackers = []
        flags |= lt.torrent_flags.override_trackers
    if not asked.get("web_seeds", False):
        wanted.url_seeds = []
        flags |= lt.torrent_flags.override_web_seeds
    wanted.flags = flags
    return wanted


def endpoint(text):
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


class Peers:
    """Everybody whom a torrent has exchanged content with."""

    def __init__(self):
        self.seen = {}

    def look(self, torrent):
        for peer in torrent.get_peer_info():
            host, port = peer.ip
            self.seen[f"[{host}]:{port}" if ":" in host else f"{host}:{port}"] = {
                "client": peer.client.decode(errors="replace") if isinstance(peer.client, bytes) else peer.client,
                "down": peer.total_download,
                "up": peer.total_upload,
                "rc4": bool(peer.flags & lt.peer_info.rc4_encrypted),
                "encrypted_handshake": bool(peer.flags & (lt.peer_info.rc4_encrypted
                                                          | lt.peer_info.plaintext_encrypted)),
                "utp": bool(peer.flags & (1 << 17)),
                "web_seed": peer.connection_type != lt.peer_info.standard_bittorrent,
                "seed": bool(peer.flags & lt.peer_info.seed),
            }

    def list(self):
        return [{"address": address, **peer} for address, peer in self.seen.items()]


def recheck(node, torrent, bound):
    """Lets libtorrent read what is on the disk and hash it: whether it finds every piece."""
    node.pop_alerts()
    torrent.force_recheck()
    while time.monotonic() < bound:
        if any(isinstance(alert, lt.torrent_checked_alert) for alert in node.pop_alerts()):
            return torrent.status().is_seeding
        time.sleep(0.002)
    return False


def fetch(asked):
    started = time.monotonic()
    bound = started + asked.get("seconds", 60)
    peers = Peers()
    errors = []
    failures = 0
    node = session(asked)
    torrent = node.add_torrent(parameters(asked, asked.get("torrent")))
    flags = SPEAKS_UTP if asked.get("utp", False) else 0
    if asked.get("speaks_v2", False):
        flags |= SPEAKS_V2

    def note():
        nonlocal failures
        for alert in node.pop_alerts():
            if isinstance(alert, lt.hash_failed_alert):
                failures += 1
            elif alert.category() & lt.alert_category.error or isinstance(alert, lt.peer_disconnected_alert):
                errors.append(alert.message())

    for peer in asked.get("peers", []):
        torrent.connect_peer(endpoint(peer), 0, flags)
    done = False
    asks = started
    while not done and time.monotonic() < bound:
        time.sleep(0.01)
        # By itself it asks the DHT once in a quarter of an hour.
        if "dht" in asked and time.monotonic() >= asks:
            torrent.force_dht_announce()
            asks = time.monotonic() + 1
        note()
        peers.look(torrent)
        done = torrent.status().is_seeding
    seconds = time.monotonic() - started
    note()
    peers.look(torrent)
    status = torrent.status()
    info = torrent.torrent_file()
    say({
        "complete": done,
        "bytes_down": status.total_payload_download,
        "bytes_up": status.total_payload_upload,
        "bytes_redundant": status.total_redundant_bytes,
        "hash_failures": failures,
        "seconds": round(seconds, 3),
        "peers": peers.list(),
        "piece_hash_ok": done and recheck(node, torrent, max(bound, time.monotonic() + 10)),
        "torrent": describe(info) if info is not None else None,
        "errors": errors[-20:],
    })


def memory():
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return None


def seed(asked):
    node = session(asked)
    torrents = []
    for torrent in asked["torrents"]:
        wanted = parameters(asked, torrent)
        if asked.get("super_seeding", False):
            wanted.flags |= lt.torrent_flags.super_seeding
        torrents.append(node.add_torrent(wanted))
    bound = time.monotonic() + asked.get("seconds", 600)
    addresses = []
    while not all(torrent.status().is_seeding for torrent in torrents):
        if time.monotonic() > bound:
            say({"error": "the content is not what the torrents say"})
            sys.exit(1)
        time.sleep(0.01)
    for alert in node.pop_alerts():
        if isinstance(alert, lt.listen_succeeded_alert) and alert.socket_type == lt.socket_type_t.tcp:
            addresses.append(f"[{alert.address}]:{alert.port}" if ":" in alert.address
                             else f"{alert.address}:{alert.port}")
    begun = os.times()
    started = time.monotonic()
    say({"addresses": addresses, "pid": os.getpid(), "torrents": [describe(t.torrent_file()) for t in torrents]})
    sys.stdin.read()
    used = os.times()
    say({
        "seconds": round(time.monotonic() - started, 3),
        "cpu_seconds": round(used.user + used.system - begun.user - begun.system, 3),
        "memory_bytes": memory(),
        "bytes_up": sum(torrent.status().total_payload_upload for torrent in torrents),
        "peers": sum(torrent.status().num_peers for torrent in torrents),
    })


def main():
    asked = json.loads(sys.argv[1])
    {"create": create, "show": show, "fetch": fetch, "seed": seed}[asked.pop("mode")](asked)


main()
