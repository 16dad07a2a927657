"""What scenarios share: images, boxes and the states they are copied from, sticks, and what is asked of a box."""

import http.client
import os
import random
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from pathlib import Path

from machine import HERE, Failed, Machine, enter
from origin import Origin

TOOLS = HERE.parent / "tools"
# Said once in each boot, by the kernel.
BOOTS = "UEFI Secure Boot is enabled"
# A boot under emulation, with whatever else runs beside it.
BOOT = 600
CONFIG = """
[node]
name = "box-under-test"
[public]
listen = ["0.0.0.0:80"]
[update]
window = []
[sites.default]
origin = "http://10.0.2.100:8000"
"""
# The admin listener for everybody who has the token, which the node has as a credential.
TOKEN = "a token of the test"
WATCHED = """
[admin]
listen = "0.0.0.0:9180"
token_file = "/run/credentials/skerry.service/skerry.node.admin-token"
"""
TOKEN_CREDENTIAL = {"skerry.node.admin-token": TOKEN}
LUKS = b"LUKS\xba\xbe"
# What every node answers by itself: a resource that nobody has.
NOBODY_S = "/.skerry/v1/resources/" + "0" * 64


class Bases:
    """Boxes in states that several scenarios begin with, each made once by whoever needs it first."""

    def __init__(self):
        self.lock = threading.Lock()
        self.made = {}

    def of(self, name, make, place):
        """The box; who waits until another scenario has made it gives up its place so long."""
        with self.lock:
            entry = self.made.setdefault(name, {"lock": threading.Lock()})
        if not entry["lock"].acquire(blocking=False):
            place.give()
            entry["lock"].acquire()
        try:
            place.take()
            if "failed" in entry:
                raise Failed(f"there is no box that is {name}: {entry['failed'].splitlines()[0]}")
            if "box" not in entry:
                try:
                    entry["box"] = make()
                except Exception as error:
                    entry["failed"] = str(error) or repr(error)
                    raise
            return entry["box"]
        finally:
            entry["lock"].release()

    def forgive(self):
        """Lets those that could not be made be tried again."""
        with self.lock:
            self.made = {name: entry for name, entry in self.made.items() if "failed" not in entry}

    def boxes(self):
        found = [entry.get("box") for entry in self.made.values()]
        return [one[0] if isinstance(one, tuple) else one for one in found if one]


class Bench:
    """Of one scenario: its boxes, its origin, its clock; and what it shares with the others."""

    def __init__(self, tree, out, work, version, bases, cuts, *, name, place):
        self.tree, self.out, self.work, self.version = tree, Path(out), Path(work).resolve(), version
        self.name, self.bases, self.cuts = name, bases, cuts
        # Given up before minutes of waiting: the next scenario may begin beside them.
        self.place = place
        self.origin = Origin(random.Random(1).randbytes(300_000))
        self.boxes, self.sticks = [], []
        self.begun = self.at = time.monotonic()

    def say(self, words):
        print(f"{self.name:>28}  {words}", flush=True)

    def done(self, what):
        now = time.monotonic()
        self.say(f"{now - self.at:7.1f} s  {what}")
        self.at = now

    def end(self, *, failed):
        for box in self.boxes:
            box.kill()
        self.origin.stop()
        if not failed:
            for stick in self.sticks:
                stick.unlink(missing_ok=True)
            for box in set(self.boxes) - set(self.bases.boxes()):
                forget(box)

    def image(self, suffix=""):
        version = self.version + suffix
        return self.out / version / f"skerry_{version}_x86-64.raw"

    def machine(self, name, **options):
        box = Machine(self.tree, self.work / name, **options)
        self.boxes.append(box)
        return box

    def box(self, name, **options):
        """A box as it comes from the factory."""
        box = self.machine(name, **options)
        box.flash(self.image())
        return box

    def copy(self, base, name):
        """A box that is as another one was when it was switched off."""
        again = any(box.folder == self.work / name for box in self.boxes)
        box = self.machine(name)
        if not again:
            box.serial.unlink(missing_ok=True)
        box.become(base)
        return box

    def start(self, box, config=CONFIG, *, credentials=None, reach=None, **options):
        given = {"skerry.toml": config} if config else {}
        box.start(ports=[80, 9180, 9443], reach={8000: self.origin.port, **(reach or {})},
                  credentials={**given, **(credentials or {})}, **options)  # fmt: skip

    def ready(self, box):
        box.until("the screen says ready and serving", lambda: "ready and serving" in last_screen(box), BOOT)
        self.done("the screen says ready and serving")

    def provisioned(self):
        """A box after its first boot, by a credential; it has a file of the origin, and is switched off."""
        return self.bases.of("provisioned", self.provision, self.place)

    def provision(self):
        box = self.box("provisioned")
        self.start(box)
        box.until_said("Secure Boot keys successfully enrolled", BOOT)
        box.until_said(BOOTS, BOOT)
        self.done("first boot: keys enrolled, booting under Secure Boot")
        self.ready(box)
        served(self, box)
        expect(admin(box, "/metrics", timeout=5)[0] == 0, "the admin listener of the loopback is reached from outside")
        expect(machine_shown(box), "the screen shows no machine id")
        expect(self.begins(box, "skerry-var", LUKS), "the data is not encrypted")
        box.off()
        self.done("nobody reaches the admin listener; the data is encrypted; switched off by its button")
        return box

    def stick(self, name, files, label="SKERRY"):
        """The image of a USB stick: a FAT file system with these {path: file on this machine}."""
        path = self.work / name
        self.sticks.append(path)
        size = sum(Path(file).stat().st_size for file in files.values())
        with open(path, "wb") as file:
            file.truncate((size + (64 << 20)) // (1 << 20) * (1 << 20))
        binds = {str(self.work), *(str(Path(file).resolve().parent) for file in files.values())}
        environment = {**os.environ, "BIND": " ".join(sorted(binds)), "MTOOLS_SKIP_CHECK": "1"}
        orders = [["mkfs.vfat", "-F", "32", "-n", label, path]]
        for folder in sorted({str(Path(inside).parent) for inside in files} - {"."}):
            orders.append(["mmd", "-i", path, f"::{folder}"])
        orders += [["mcopy", "-i", path, Path(file).resolve(), f"::{inside}"] for inside, file in files.items()]
        for order in orders:
            subprocess.run(enter(self.tree, *order), env=environment, check=True, stdout=subprocess.DEVNULL)
        return path

    def parts(self, suffix):
        """What a version is updated to with."""
        version = self.version + suffix
        folder = self.out / version
        return [*folder.glob("*.root-*.raw"), folder / f"skerry_{version}_x86-64.efi", *folder.glob("SHA256SUMS*")]

    def update_stick(self, suffix, parts=None):
        """A stick with a version, of this scenario alone; with these files in place of its own."""
        name = f"{self.name}{suffix}{'-other' if parts else ''}.img"
        return self.stick(name, {f"update/{part.name}": part for part in parts or self.parts(suffix)})

    def stranger_keys(self):
        """A folder with a set of keys that no image was made with."""
        keys = self.work / f"{self.name}-keys"
        self.make("keys", self.tree, keys)
        return keys

    def stranger_parts(self, suffix):
        """A version, its list signed with another key."""
        sums, signature, *parts = sorted(self.parts(suffix))
        expect([sums.name, signature.name] == ["SHA256SUMS", "SHA256SUMS.gpg"], f"parts: {sums} {signature}")
        home, other = self.stranger_keys() / "update", self.work / f"{self.name}-signed" / signature.name
        other.parent.mkdir(exist_ok=True)
        self.tool("gpg", "--homedir", home, "--batch", "--quiet", "--yes", "--detach-sign", "--output", other, sums,
                  see=[sums.parent.resolve()])  # fmt: skip
        self.tool("gpgconf", "--homedir", home, "--kill", "all")
        return [*parts, sums, other]

    def make(self, program, *arguments):
        """Runs one of the image's own tools."""
        environment = {**os.environ, "BIND": str(self.work)}
        ran = subprocess.run([TOOLS / program, *arguments], cwd=HERE.parent.parent, env=environment,
                             capture_output=True, text=True)  # fmt: skip
        expect(ran.returncode == 0, f"{program}: {ran.stderr.strip()[-500:]}")

    def tool(self, *order, see=()):
        """What a program of the tools tree prints, where `work` can be seen, and these folders."""
        environment = {**os.environ, "BIND": " ".join(map(str, (self.work, *see))), "MTOOLS_SKIP_CHECK": "1"}
        ran = subprocess.run(enter(self.tree, *order), env=environment, capture_output=True, text=True)
        if ran.returncode:
            raise Failed(f"{' '.join(map(str, order))}: {ran.stderr.strip()[-500:]}")
        return ran.stdout

    def partition(self, box, label):
        """Where a partition begins on the disk of a box, bytes."""
        for line in self.tool("sfdisk", "--dump", box.disk).splitlines():
            if f'name="{label}"' in line:
                return int(re.search(r"start= *(\d+)", line)[1]) * 512
        raise Failed(f"there is no partition {label}")

    def begins(self, box, label, magic, at=0):
        """Whether a partition has this, so many bytes from its beginning."""
        with open(box.disk, "rb") as disk:
            disk.seek(self.partition(box, label) + at)
            return disk.read(len(magic)) == magic

    def entries(self, box):
        """Kernel images on the EFI system partition, the first one; their names say what boot counting does."""
        shown = self.tool("mdir", "-b", "-i", f"{box.disk}@@1M", "::/EFI/Linux")
        return [line.rpartition("/")[2] for line in shown.split()]

    def tried(self, box, suffix, *, left):
        """Leaves a version that is kept, of a box that is switched off, no more than so many tries."""
        kept = f"skerry_{self.version}{suffix}"
        [now] = [name for name in self.entries(box) if name.startswith((f"{kept}+", f"{kept}.efi"))]
        names = [f"::/EFI/Linux/{name}" for name in (now, f"{kept}+{left}-{9 - left}.efi")]
        self.tool("mren", "-i", f"{box.disk}@@1M", *names)

    def blessed(self, box, suffix):
        """Whether a version that has booted is kept: its tries are not counted, or are all there again."""
        try:
            names = self.entries(box)
        except Failed:
            # Read while it is written.
            return False
        kept = f"skerry_{self.version}{suffix}"
        return any(name in (f"{kept}.efi", f"{kept}+9.efi") for name in names)


def plugged(path):
    """Options of a machine that has a stick from the start."""
    return ["-device", "usb-storage,drive=stick", "-drive", f"if=none,id=stick,format=raw,file={path}"]


def ask(url, headers=None, body=None, timeout=20):
    """Status, headers and body; a status of 0 says that nobody answered."""
    request = urllib.request.Request(url, headers=headers or {}, data=body)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()
    except (OSError, http.client.HTTPException):
        return 0, {}, b""


def get(box, path="/film", timeout=20):
    return ask(f"http://127.0.0.1:{box.port[80]}{path}", timeout=timeout)


def admin(box, path, body=None, token=TOKEN, timeout=30):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return ask(f"http://127.0.0.1:{box.port[9180]}{path}", headers, body, timeout)


def metric(box, name, **labels):
    """The sum of the lines of a metric that have these labels."""
    status, _, text = admin(box, "/metrics")
    expect(status == 200, f"the metrics answer {status}")
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text.decode(), re.MULTILINE)
    lines = [(dict(re.findall(r'(\w+)="(.*?)"', has)), float(value)) for has, value in found]
    return sum(value for has, value in lines if labels.items() <= has.items())


def expect(truth, words):
    if not truth:
        raise Failed(words)


def served(bench, box):
    """A file of the origin, whole, and the second time without the origin."""
    status, _, body = get(box)
    expect(status == 200 and body == bench.origin.body, f"a GET gave {status} and {len(body)} bytes")
    kept(bench, box)


def kept(bench, box):
    """The file is there, and the origin is not asked."""
    asked = bench.origin.asked
    status, headers, body = get(box)
    expect(status == 200 and body == bench.origin.body, f"a GET gave {status} and {len(body)} bytes")
    expect("hit" in headers.get("cache-status", ""), f"a GET is no hit: {headers.get('cache-status')}")
    expect(bench.origin.asked == asked, "the origin was asked")
    bench.done("a file is served from the cache")


def up(bench, box):
    """Waits until the box serves, whatever version runs; gives that."""
    box.until("it serves", lambda: get(box, timeout=3)[2] == bench.origin.body, BOOT)
    return box.until("the screen tells the version", lambda: version_shown(box), 60)


def clock(box):
    """The time that the box has, seconds since 1970; 0 when it does not tell."""
    date = get(box, NOBODY_S)[1].get("date")
    return parsedate_to_datetime(date).timestamp() if date else 0.0


def last_screen(box):
    return box.said().rpartition("Skerry  ")[2]


def shown(box):
    """The screen, however its lines are wrapped."""
    return " ".join(last_screen(box).split())


def until_shown(box, words, seconds=BOOT):
    """Waits for words of the screen."""
    box.until(f"the screen says {words!r}", lambda: words in shown(box), seconds)


def version_shown(box):
    """The version of the image, as the screen of the serial line said last; empty before it said so."""
    shown = re.findall(r"^versions +image ([^ ,\r]+)", box.said(), re.MULTILINE)
    return shown[-1] if shown else ""


def machine_shown(box):
    shown = re.findall(r"^machine +([0-9a-f]{32})", box.said(), re.MULTILINE)
    return shown[-1] if shown else ""


def flip(box, where):
    """Changes a byte in each of the first 64 MiB of a partition."""
    with open(box.disk, "r+b") as disk:
        for place in range(where, where + (64 << 20), 1 << 20):
            disk.seek(place + 2048)
            byte = disk.read(1)
            disk.seek(place + 2048)
            disk.write(bytes([byte[0] ^ 0xFF]))


def forget(box):
    """The disk of a box that is not needed any more; its logs stay."""
    box.disk.unlink(missing_ok=True)
    shutil.rmtree(box.folder / "tpm", ignore_errors=True)
