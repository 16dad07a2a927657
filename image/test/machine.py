"""A box in QEMU: UEFI with Secure Boot, a TPM, a disk that is a copy of the image, forwarded ports of loopback, a
serial log. Emulated (no KVM is assumed), so a boot takes about a minute."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIRMWARE = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
WITHOUT_SECURE_BOOT = "/usr/share/OVMF/OVMF_CODE_4M.fd"
VARIABLES = "usr/share/OVMF/OVMF_VARS_4M.fd"
# The card to this machine's loopback, and the one to a Neighbour.
MACS = ("02:00:5e:10:00:01", "02:00:5e:10:00:02")


class Failed(Exception):
    """What was expected did not happen."""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def listening(port):
    """Waits until a program of this machine listens there."""
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise Failed(f"nobody listens on port {port}: {error}") from error
            time.sleep(0.05)


def enter(tree, *command):
    """A command of the tools tree, as words."""
    return [str(HERE.parent / "tools/enter"), str(tree), *map(str, command)]


class Machine:
    """`folder` keeps disk, firmware variables and TPM, so that another Machine on it is the same box."""

    running = set()

    def __init__(self, tree, folder, *, disk_bytes=8 << 30, tpm=True):
        self.tree = Path(tree).resolve()
        self.folder = Path(folder).resolve()
        self.disk = self.folder / "disk.raw"
        self.disk_bytes = disk_bytes
        self.tpm = tpm
        self.serial = self.folder / "serial.log"
        self.qemu = self.swtpm = None
        self.read = 0
        self.port = {}

    def flash(self, image):
        """A new box: the image on its disk, no keys in its firmware, an empty TPM."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.new_board()
        subprocess.run(["cp", "--sparse=always", str(image), str(self.disk)], check=True)
        os.truncate(self.disk, self.disk_bytes)

    def new_disk(self):
        """An empty one."""
        self.disk.unlink(missing_ok=True)
        self.disk.touch()
        os.truncate(self.disk, self.disk_bytes)

    def new_board(self):
        """No keys in its firmware, an empty TPM."""
        (self.folder / "tpm").mkdir(parents=True, exist_ok=True)
        shutil.copy(self.tree / VARIABLES, self.folder / "firmware.fd")
        shutil.rmtree(self.folder / "tpm")
        (self.folder / "tpm").mkdir()
        # Each bank more is another hash of the kernel image.
        order = self.enter("swtpm_setup", "--tpm2", "--tpmstate", self.folder / "tpm", "--pcr-banks", "sha256")
        subprocess.run(order, env=self.environment(), check=True, stdout=subprocess.DEVNULL)

    def become(self, other):
        """What another box that is switched off is: disk, firmware and TPM. The serial log stays its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tpm = other.tpm
        subprocess.run(["cp", "--sparse=always", str(other.disk), str(self.disk)], check=True)
        shutil.copy(other.folder / "firmware.fd", self.folder / "firmware.fd")
        shutil.rmtree(self.folder / "tpm", ignore_errors=True)
        shutil.copytree(other.folder / "tpm", self.folder / "tpm")

    def enter(self, *command):
        return enter(self.tree, *command)

    def environment(self):
        return {**os.environ, "BIND": str(self.folder.parent)}

    def start(self, *, ports=(), reach=None, credentials=None, cmdline="", wire=None, typed=False, options=(),
              disk="virtio-blk-pci", firmware=FIRMWARE):  # fmt: skip
        """Switches on. `ports` of the box are forwarded, and it reaches ports of this machine's loopback as
        10.0.2.100:PORT, {box's: ours}, and nothing else; with `wire`, a Neighbour on a second card too. Credentials
        and more of the kernel's command line are handed over in SMBIOS type 11, as whoever owns the hardware can.
        With `typed` the serial line has a keyboard. `disk` is the device of QEMU that the disk is."""
        # Firmware that has no Secure Boot writes its variables as any program would.
        secure = "on" if firmware == FIRMWARE else "off"
        log = open(self.folder / "host.log", "ab")
        self.read = self.serial.stat().st_size if self.serial.exists() else 0
        sata = "on" if disk.startswith("ide") else "off"
        command = [
            # What is emulated in the least time: one processor has less to do than two, strings of bytes are moved one
            # byte at a time where the processor says that it is quick at them, all memory is cleared at a boot, and
            # buses that nothing is on have drivers that look for something.
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off,erms=off,fsrm=off",
            "-smp", "1", "-m", "1024",
            "-machine", f"q35,smm=on,vmport=off,smbus=off,sata={sata}",
            "-nodefaults", "-no-user-config", "-display", "none",
            "-global", f"driver=cfi.pflash01,property=secure,value={secure}",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={firmware}",
            "-drive", f"if=pflash,format=raw,unit=1,file={self.folder}/firmware.fd",
            "-drive", f"if=none,id=disk,format=raw,file={self.disk},discard=unmap,cache=writeback",
            "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
            "-serial", "chardev:serial", "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off",
        ]  # fmt: skip
        if typed:
            (self.folder / "serial").unlink(missing_ok=True)
            line = f"socket,id=serial,path={self.folder}/serial,server=on,wait=off,logfile={self.serial},logappend=on"
        else:
            line = f"file,id=serial,path={self.serial},append=on"
        command += ["-chardev", line]
        self.port = {port: free_port() for port in ports}
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{box}" for box, host in self.port.items())
        reached = "".join(
            f",guestfwd=tcp:10.0.2.100:{box}-cmd:nc 127.0.0.1 {ours}" for box, ours in (reach or {}).items()
        )
        command += ["-netdev", f"user,id=net,restrict=on{forwards}{reached}"]
        command += ["-device", f"virtio-net-pci,netdev=net,mac={MACS[0]}"]
        # The shell of a debug image, and nothing in others.
        (self.folder / "console").unlink(missing_ok=True)
        command += [
            "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=console",
            "-chardev", f"socket,id=console,path={self.folder}/console,server=on,wait=off",
            "-device", "qemu-xhci,id=usb", "-device", f"{disk},drive=disk,bootindex=1",
        ]  # fmt: skip
        if wire:
            command += ["-netdev", wire.netdev(), "-device", f"virtio-net-pci,netdev=wire,mac={MACS[1]}"]
        strings = {"cmdline": f"io.systemd.stub.kernel-cmdline-extra={cmdline}"} if cmdline else {}
        for name, content in (credentials or {}).items():
            content = content.encode() if isinstance(content, str) else content
            strings[name] = f"io.systemd.credential.binary:{name}={base64.b64encode(content).decode()}"
        for name, value in strings.items():
            path = self.folder / f"smbios-{name}"
            path.write_text(value)
            command += ["-smbios", f"type=11,path={path}"]
        if self.tpm:
            command += self.start_tpm(log)
        command += list(options)
        Machine.running.add(self)
        self.qemu = subprocess.Popen(
            self.enter(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment()
        )

    def start_tpm(self, log):
        """QEMU's options for a TPM that now runs."""
        wire = self.folder / "tpm.sock"
        wire.unlink(missing_ok=True)
        swtpm = self.enter("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder}/tpm",
                           "--ctrl", f"type=unixio,path={wire}")  # fmt: skip
        self.swtpm = subprocess.Popen(swtpm, stdout=log, stderr=log, env=self.environment())
        Machine.running.add(self)
        while not wire.exists():
            if self.swtpm.poll() is not None:
                raise Failed(f"swtpm did not start: see {self.folder}/host.log")
            time.sleep(0.05)
        return [
            "-chardev", f"socket,id=tpm,path={wire}", "-tpmdev", "emulator,id=tpm,chardev=tpm",
            "-device", "tpm-crb,tpmdev=tpm",
        ]  # fmt: skip

    def sealed(self, name, text):
        """A file with a credential that nothing but the TPM of this board can read; while it is switched off."""
        plain, sealed = self.folder / f"{name}.plain", self.folder / f"{name}.cred"
        plain.write_text(text)
        port = free_port()
        orders = f"--server type=tcp,port={port},bindaddr=127.0.0.1 --ctrl type=tcp,port={port + 1},bindaddr=127.0.0.1"
        swtpm = self.enter("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder}/tpm", *orders.split(),
                           "--flags", "not-need-init,startup-clear")  # fmt: skip
        running = subprocess.Popen(swtpm, env=self.environment())
        Machine.running.add(running)
        try:
            listening(port + 1)
            order = self.enter("systemd-creds", "encrypt", "--with-key=tpm2", "--tpm2-pcrs=", f"--name={name}",
                               f"--tpm2-device=swtpm:host=127.0.0.1,port={port}", plain, sealed)  # fmt: skip
            subprocess.run(order, env=self.environment(), check=True)
        finally:
            running.kill()
            running.wait()
            Machine.running.discard(running)
        return sealed

    def kill(self):
        """Pulls the plug."""
        for process in (self.qemu, self.swtpm):
            if process and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
        self.qemu = self.swtpm = None
        Machine.running.discard(self)

    @staticmethod
    def kill_all():
        for machine in list(Machine.running):
            machine.kill()

    def runs(self):
        return self.qemu is not None and self.qemu.poll() is None

    def said(self):
        """The serial log since the box was switched on."""
        if not self.serial.exists():
            return ""
        with open(self.serial, "rb") as file:
            file.seek(self.read)
            return file.read().decode(errors="replace")

    def until(self, what, condition, seconds):
        """Waits for a condition; raises with the end of the serial log when it does not come."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            if not self.runs():
                raise Failed(f"{what}: the machine ended by itself\n{self.said()[-3000:]}")
            time.sleep(0.5)
        raise Failed(f"{what}: not within {seconds} s\n{self.said()[-3000:]}")

    def until_said(self, words, seconds):
        return self.until(f"console says {words!r}", lambda: words in self.said(), seconds)

    def until_off(self, seconds):
        """Waits until it switches itself off, or reboots where that ends the machine (-no-reboot)."""
        try:
            self.qemu.wait(seconds)
        except subprocess.TimeoutExpired as late:
            raise Failed(f"does not switch off\n{self.said()[-3000:]}") from late
        self.kill()

    def off(self, seconds=120):
        """Presses the power button and waits."""
        self.order("system_powerdown")
        self.until_off(seconds)

    def order(self, name, /, **arguments):
        """An order to QEMU, and what it returns."""
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(30)
            wire.connect(str(self.folder / "qmp"))
            lines = wire.makefile("rwb")
            lines.readline()
            for order in ({"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}):
                lines.write(json.dumps(order).encode() + b"\n")
                lines.flush()
                answer = {}
                # Events come in between.
                while not answer.keys() & {"return", "error"}:
                    line = lines.readline()
                    if not line:
                        raise Failed(f"QEMU ended during {name}")
                    answer = json.loads(line)
                if "error" in answer:
                    raise Failed(f"QEMU: {name}: {answer['error']['desc']}")
        return answer["return"]

    def plug(self, name, stick):
        """Plugs in a USB stick while it runs."""
        file = {"driver": "file", "filename": str(stick)}
        self.order("blockdev-add", **{"driver": "raw", "node-name": name, "file": file})
        self.order("device_add", driver="usb-storage", bus="usb.0", drive=name, id=f"{name}-stick")

    def type(self, keys, *, breaks=False):
        """Types on the serial line, after a break if asked: the way to the kernel's SysRq."""
        if breaks:
            self.order("chardev-send-break", id="serial")
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(self.folder / "serial"))
            wire.sendall(keys)
            # What it says meanwhile must be read, or it waits for us; the log has it too.
            wire.settimeout(2)
            try:
                while wire.recv(65536):
                    pass
            except TimeoutError:
                pass

    def hold(self, key, what, condition, seconds):
        """Holds a key of the serial line down until there is what it leads to."""
        self.until("the serial line is there", (self.folder / "serial").exists, 30)
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(self.folder / "serial"))
            wire.settimeout(0.1)

            def pressed():
                wire.sendall(key)
                try:
                    wire.recv(65536)
                except TimeoutError:
                    pass
                return condition()

            self.until(what, pressed, seconds)

    def run(self, order, seconds=120, *, answer=""):
        """What an order prints, in the shell of a debug image; it is given this line when it asks."""
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(self.folder / "console"))
            wire.settimeout(seconds)
            # The order must not hold the words that begin and end its answer; in between there may be prompts.
            order = f"{{ printf '\\nBE%s\\n' GIN; {order}\n}} 2>&1; printf '\\nDO%s\\n' NE"
            wire.sendall(f"PS1= PS2= && stty -echo\n{order}\n{answer}".encode())
            heard = b""
            while b"\nDONE" not in heard.replace(b"\r", b""):
                more = wire.recv(65536)
                if not more:
                    raise Failed(f"the shell ended in {order!r}: {heard[-500:]!r}")
                heard += more
        text = heard.decode(errors="replace").replace("\r", "")
        return text[: text.rindex("\nDONE")].rpartition("\nBEGIN\n")[2]
