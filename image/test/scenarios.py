#!/usr/bin/env -S python3 -B
"""scenarios.py TREE OUT WORK VERSION [NAME...]: boots what `make image-test` built and asserts, from outside over
forwarded ports and the serial console, what the manual promises. TREE is the tools tree; OUT holds the images
VERSION, VERSION.2 (as good) and VERSION.3 (its node does not start); below WORK disks and serial logs are kept.
Without names every scenario runs. Prints each step's time, and at the end what passed and failed.
"""

import os
import random
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from machine import Failed, Machine
from origin import Origin

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


class Bench:
    """What scenarios share: the tools, the images, the origin, the clock."""

    def __init__(self, tree, out, work, version):
        self.tree, self.out, self.work, self.version = tree, Path(out), Path(work), version
        self.origin = Origin(random.Random(1).randbytes(300_000))
        self.at = time.monotonic()

    def done(self, what):
        now = time.monotonic()
        print(f"    {now - self.at:7.1f} s  {what}", flush=True)
        self.at = now

    def image(self, suffix=""):
        version = self.version + suffix
        return self.out / version / f"skerry_{version}_x86-64.raw"

    def box(self, name, **options):
        """A box as it comes from the factory."""
        box = Machine(self.tree, self.work / name, **options)
        box.flash(self.image())
        return box

    def start(self, box, config=CONFIG, **options):
        credentials = {"skerry.toml": config} if config else {}
        box.start(ports=[80, 9180], reach={8000: self.origin.port}, credentials=credentials, **options)

    def ready(self, box):
        box.until("the screen says ready and serving", lambda: "ready and serving" in last_screen(box), BOOT)
        self.done("the screen says ready and serving")

    def stick(self, name, files, label="SKERRY"):
        """A USB stick: a FAT file system with these {path: file on this machine}."""
        path = self.work / name
        size = sum(Path(file).stat().st_size for file in files.values())
        with open(path, "wb") as file:
            file.truncate((size + (64 << 20)) // (1 << 20) * (1 << 20))
        binds = {str(self.work.resolve()), *(str(Path(file).resolve().parent) for file in files.values())}
        environment = {**os.environ, "BIND": " ".join(sorted(binds)), "MTOOLS_SKIP_CHECK": "1"}
        enter = [str(Path(__file__).resolve().parent.parent / "tools/enter"), str(self.tree)]
        path = path.resolve()
        orders = [["mkfs.vfat", "-F", "32", "-n", label, path]]
        for folder in sorted({str(Path(inside).parent) for inside in files} - {"."}):
            orders.append(["mmd", "-i", path, f"::{folder}"])
        orders += [["mcopy", "-i", path, Path(file).resolve(), f"::{inside}"] for inside, file in files.items()]
        for order in orders:
            subprocess.run(enter + [str(word) for word in order], env=environment, check=True, stdout=subprocess.DEVNULL)
        return [
            "-device", "qemu-xhci", "-device", "usb-storage,drive=stick",
            "-drive", f"if=none,id=stick,format=raw,file={path}",
        ]  # fmt: skip

    def update_stick(self, suffix):
        version = self.version + suffix
        folder = self.out / version
        parts = [*folder.glob("*.root-*.raw"), folder / f"skerry_{version}_x86-64.efi", *folder.glob("SHA256SUMS*")]
        return self.stick(f"update{suffix}.img", {f"update/{part.name}": part for part in parts})


def ask(url, headers=None):
    """Status, headers and body; a status of 0 says that nobody answered."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()
    except OSError:
        return 0, {}, b""


def get(box):
    return ask(f"http://127.0.0.1:{box.port[80]}/film")


def expect(truth, words):
    if not truth:
        raise Failed(words)


def served(bench, box):
    """A file of the origin, whole, and the second time without the origin."""
    status, _, body = get(box)
    expect(status == 200 and body == bench.origin.body, f"a GET gave {status} and {len(body)} bytes")
    asked = bench.origin.asked
    status, headers, body = get(box)
    expect(status == 200 and body == bench.origin.body, f"a second GET gave {status}")
    expect("hit" in headers.get("cache-status", ""), f"the second GET is no hit: {headers.get('cache-status')}")
    expect(bench.origin.asked == asked, "the origin was asked again")
    bench.done("a file is served, the second time from the cache")


def version_shown(box, version):
    """What the status screen of the serial line says last."""
    shown = re.findall(r"^versions +image ([^ ,]+)", box.said(), re.MULTILINE)
    return bool(shown) and shown[-1] == version


def first_boot(bench):
    """Flashed, provisioned by a credential, serves; survives a reboot and a pulled plug."""
    box = bench.box("first")
    bench.start(box)
    box.until_said("Secure Boot keys successfully enrolled", BOOT)
    box.until_said("UEFI Secure Boot is enabled", BOOT)
    bench.done("keys enrolled, booting under Secure Boot")
    bench.ready(box)
    served(bench, box)
    expect(ask(f"http://127.0.0.1:{box.port[9180]}/metrics")[0] == 0, "the admin listener is reached from outside")
    machine = re.findall(r"^machine +([0-9a-f]{32})", box.said(), re.MULTILINE)
    expect(machine, "the screen shows no machine id")
    bench.done("a shut port, the machine id on the screen")
    box.off()
    bench.done("switched off by its button")
    # The configuration is its own by now, and the key of the disk the TPM's.
    bench.start(box, config=None)
    bench.ready(box)
    served(bench, box)
    expect(machine[0] in box.said() or box.until_said(machine[0], 60), "another machine id after a reboot")
    box.kill()
    bench.start(box, config=None)
    bench.ready(box)
    served(bench, box)
    bench.done("serves after its plug was pulled")
    box.kill()


def clock_and_no_tpm(bench):
    """A box without a TPM, whose clock says 2001."""
    box = bench.box("plain", tpm=False)
    bench.start(box, options=["-rtc", "base=2001-02-03T04:05:06"])
    bench.ready(box)
    served(bench, box)
    box.kill()


def wrong_configuration(bench):
    """A mistake on the stick is shown with file, line and key; a stick put right is taken."""
    box = bench.box("wrong")
    path = bench.work / "wrong.toml"
    path.write_text(CONFIG.replace("[public]\n", "[public]\nlisten_on = 1\n"))
    bench.start(box, config=None, options=bench.stick("wrong.img", {"skerry.toml": path}))
    box.until_said("listen_on", BOOT)
    line = path.read_text().split("listen_on")[0].count("\n") + 1
    box.until("the line is told", lambda: f"line {line}" in box.said(), 60)
    expect(get(box)[0] == 0, "an unprovisioned box serves")
    bench.done("the console says what is wrong")
    box.off()
    path.write_text(CONFIG)
    bench.start(box, config=None, options=bench.stick("wrong.img", {"skerry.toml": path}))
    bench.ready(box)
    served(bench, box)
    box.kill()


def flipped_byte(bench):
    """A changed root does not run."""
    box = bench.box("flipped")
    with open(box.disk, "r+b") as disk:
        where = root_offset(bench, box)
        for place in range(where, where + (64 << 20), 1 << 20):
            disk.seek(place + 2048)
            byte = disk.read(1)
            disk.seek(place + 2048)
            disk.write(bytes([byte[0] ^ 0xFF]))
    bench.start(box)
    box.until("the boot stops", lambda: "corrupted" in box.said() or "anic" in box.said(), BOOT)
    expect(get(box)[0] == 0, "it runs all the same")
    bench.done("the boot stops")
    box.kill()


def root_offset(bench, box):
    shown = subprocess.run(box.enter("sfdisk", "--dump", box.disk), env=box.environment(), check=True,
                           capture_output=True, text=True).stdout  # fmt: skip
    line = next(line for line in shown.splitlines() if f'name="skerry_{bench.version}"' in line)
    return int(re.search(r"start= *(\d+)", line)[1]) * 512


def update_and_rollback(bench):
    """To a good version by a stick, which is blessed; then to a bad one, which comes back by itself."""
    box = bench.box("update")
    bench.start(box, options=bench.update_stick(".2"))
    bench.ready(box)
    served(bench, box)
    box.until("version 2 runs", lambda: version_shown(box, bench.version + ".2"), 2 * BOOT + 900)
    bench.done("updated")
    bench.ready(box)
    served(bench, box)
    box.until("it is blessed", lambda: f"skerry_{bench.version}.2.efi" in entries(box), 300)
    bench.done("blessed")
    box.off()
    bench.start(box, config=None, options=bench.update_stick(".3"))
    box.until("version 3 boots", lambda: version_shown(box, bench.version + ".3"), 2 * BOOT + 900)
    bench.done("the broken version boots")
    box.until("it comes back", lambda: version_shown(box, bench.version + ".2"), 5 * BOOT)
    box.until("it says why", lambda: "went back" in last_screen(box), 120)
    bench.ready(box)
    served(bench, box)
    bench.done("back on the good version")
    box.kill()


def entries(box):
    """Kernel images on the EFI system partition, which is the first one; their names say what boot counting does."""
    order = box.enter("mdir", "-b", "-i", f"{box.disk}@@1M", "::/EFI/Linux")
    shown = subprocess.run(order, env={**box.environment(), "MTOOLS_SKIP_CHECK": "1"}, check=True,
                           capture_output=True, text=True).stdout  # fmt: skip
    return [line.rpartition("/")[2] for line in shown.split()]


def last_screen(box):
    return box.said().rpartition("Skerry  ")[2]


SCENARIOS = [first_boot, clock_and_no_tpm, wrong_configuration, flipped_byte, update_and_rollback]


def main():
    tree, out, work, version, *names = sys.argv[1:]
    bench = Bench(tree, out, work, version)
    Path(work).mkdir(parents=True, exist_ok=True)
    failed = 0
    chosen = [scenario for scenario in SCENARIOS if not names or scenario.__name__ in names]
    for scenario in chosen:
        print(f"{scenario.__name__}: {scenario.__doc__}", flush=True)
        begun = bench.at = time.monotonic()
        try:
            scenario(bench)
        except (Failed, OSError, subprocess.CalledProcessError) as words:
            failed += 1
            print(f"    FAILED: {words}", flush=True)
        finally:
            Machine.kill_all()
        print(f"    {time.monotonic() - begun:7.1f} s  in all", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
