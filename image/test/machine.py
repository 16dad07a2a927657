"""A box in QEMU: UEFI with Secure Boot, a TPM, a disk that is a copy of the image, one forwarded port of
loopback, a serial log. Emulated (no KVM is assumed), so a boot takes minutes."""

import base64
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIRMWARE = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
VARIABLES = "usr/share/OVMF/OVMF_VARS_4M.fd"


class Failed(Exception):
    """What was expected did not happen."""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


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
        self.folder.mkdir(parents=True)
        subprocess.run(["cp", "--sparse=always", str(image), str(self.disk)], check=True)
        os.truncate(self.disk, self.disk_bytes)
        shutil.copy(self.tree / VARIABLES, self.folder / "firmware.fd")
        (self.folder / "tpm").mkdir()

    def enter(self, *command):
        """A command of the tools tree."""
        return [str(HERE.parent / "tools/enter"), str(self.tree), *map(str, command)]

    def environment(self):
        return {**os.environ, "BIND": str(self.folder.parent)}

    def start(self, *, ports=(), reach=None, credentials=None, cmdline="", options=()):
        """Switches on. `ports` of the box are forwarded, and it reaches ports of this machine's loopback as
        10.0.2.100:PORT, {box's: ours}, and nothing else. Credentials and more of the kernel's command line are
        handed over in SMBIOS type 11, as whoever owns the hardware can."""
        log = open(self.folder / "host.log", "ab")
        self.read = self.serial.stat().st_size if self.serial.exists() else 0
        command = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048",
            "-machine", "q35,smm=on,vmport=off", "-nodefaults", "-no-user-config", "-display", "none",
            "-global", "driver=cfi.pflash01,property=secure,value=on",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}",
            "-drive", f"if=pflash,format=raw,unit=1,file={self.folder}/firmware.fd",
            "-drive", f"if=none,id=disk,format=raw,file={self.disk},discard=unmap,cache=writeback",
            "-device", "virtio-blk-pci,drive=disk,bootindex=1",
            "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
            "-chardev", f"file,id=serial,path={self.serial},append=on", "-serial", "chardev:serial",
            "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off",
        ]  # fmt: skip
        self.port = {port: free_port() for port in ports}
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{box}" for box, host in self.port.items())
        reached = "".join(
            f",guestfwd=tcp:10.0.2.100:{box}-cmd:nc 127.0.0.1 {ours}" for box, ours in (reach or {}).items()
        )
        command += ["-netdev", f"user,id=net,restrict=on{forwards}{reached}"]
        command += ["-device", "virtio-net-pci,netdev=net"]
        # The shell of a debug image, and nothing in others.
        (self.folder / "console").unlink(missing_ok=True)
        command += [
            "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=console",
            "-chardev", f"socket,id=console,path={self.folder}/console,server=on,wait=off",
        ]  # fmt: skip
        strings = {"cmdline": f"io.systemd.stub.kernel-cmdline-extra={cmdline}"} if cmdline else {}
        for name, content in (credentials or {}).items():
            content = content.encode() if isinstance(content, str) else content
            strings[name] = f"io.systemd.credential.binary:{name}={base64.b64encode(content).decode()}"
        for name, value in strings.items():
            path = self.folder / f"smbios-{name}"
            path.write_text(value)
            command += ["-smbios", f"type=11,path={path}"]
        if self.tpm:
            wire = self.folder / "tpm.sock"
            wire.unlink(missing_ok=True)
            swtpm = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder}/tpm", "--ctrl", f"type=unixio,path={wire}"]
            self.swtpm = subprocess.Popen(self.enter(*swtpm), stdout=log, stderr=log, env=self.environment())
            while not wire.exists():
                if self.swtpm.poll() is not None:
                    raise Failed(f"swtpm did not start: see {self.folder}/host.log")
                time.sleep(0.05)
            command += [
                "-chardev", f"socket,id=tpm,path={wire}", "-tpmdev", "emulator,id=tpm,chardev=tpm",
                "-device", "tpm-crb,tpmdev=tpm",
            ]  # fmt: skip
        command += list(options)
        Machine.running.add(self)
        self.qemu = subprocess.Popen(
            self.enter(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment()
        )

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
            if self.qemu.poll() is not None:
                raise Failed(f"{what}: the machine ended with {self.qemu.returncode}\n{self.said()[-3000:]}")
            time.sleep(0.5)
        raise Failed(f"{what}: not within {seconds} s\n{self.said()[-3000:]}")

    def until_said(self, words, seconds):
        return self.until(f"console says {words!r}", lambda: words in self.said(), seconds)

    def run(self, order, seconds=120):
        """What an order prints, in the shell of a debug image."""
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(self.folder / "console"))
            wire.settimeout(seconds)
            # The order must not hold the word that ends its answer.
            wire.sendall(f"stty -echo\n{{ {order}\n}} 2>&1; printf '\\nDO%s\\n' NE\n".encode())
            heard = b""
            while b"\nDONE" not in heard.replace(b"\r", b""):
                more = wire.recv(65536)
                if not more:
                    raise Failed(f"the shell ended in {order!r}: {heard[-500:]!r}")
                heard += more
        text = heard.decode(errors="replace").replace("\r", "")
        return text[: text.rindex("\nDONE")]

    def off(self, seconds=120):
        """Presses the power button and waits."""
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(self.folder / "qmp"))
            wire.recv(4096)
            for order in ("qmp_capabilities", "system_powerdown"):
                wire.sendall(b'{"execute": "%s"}\n' % order.encode())
                wire.recv(4096)
        try:
            self.qemu.wait(seconds)
        except subprocess.TimeoutExpired as late:
            raise Failed(f"does not switch off\n{self.said()[-3000:]}") from late
        self.kill()
