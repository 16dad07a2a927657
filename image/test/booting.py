"""Boots: the first one, one without a TPM and with a wrong clock, wrong input, a root that was changed."""

import os
import re
import time

from bench import BOOT, BOOTS, CONFIG, LUKS, clock, expect, flip, get, kept, machine_shown, plugged, served
from machine import WITHOUT_SECURE_BOOT
from neighbour import BOX_LOCAL, CARD, Neighbour

# Devices of QEMU.
DISKS = {"nvme": "nvme,serial=skerry", "sata": "ide-hd,bus=ide.0", "usb": "usb-storage,bus=usb.0"}
EXT4 = b"\x53\xef"


def first_boot(bench):
    """Flashed and provisioned by a credential, it serves; so it does after a reboot and after its plug was pulled."""
    base = bench.provisioned()
    box = bench.copy(base, "first")
    # The configuration is its own by now, and the key of the disk the TPM's.
    bench.start(box, config=None)
    bench.ready(box)
    kept(bench, box)
    expect(machine_shown(box) == machine_shown(base), "it has another machine id after a reboot")
    box.kill()
    bench.start(box, config=None)
    bench.ready(box)
    kept(bench, box)
    expect(machine_shown(box) == machine_shown(base), "it has another machine id after its plug was pulled")


def clock_and_no_tpm(bench):
    """Without a TPM, with a credential by fw_cfg, and with a clock that is years off: encrypted by a key that it is
    given, or not at all when its configuration says so; the time comes from the time server, and without one it serves
    all the same."""
    key = bench.box("key", tpm=False)
    path = bench.work / "key.toml"
    path.write_text(CONFIG)
    options = ["-rtc", "base=2035-06-07T08:09:10"]
    options += ["-fw_cfg", f"name=opt/io.systemd.credentials/skerry.toml,file={path}"]
    bench.start(key, config=None, credentials={"skerry.disk-key": "a key of the test"}, options=options)
    bench.ready(key)
    status, _, body = get(key)
    expect(status == 200 and body == bench.origin.body, f"a GET gave {status} and {len(body)} bytes")
    expect(clock(key) > time.time() + 365 * 86400, "the clock was not off")
    expect(bench.begins(key, "skerry-var", LUKS), "the data is not encrypted")
    bench.done("2035: it serves; the data is encrypted with the key that it was given")
    key.kill()

    plain = bench.box("plain", tpm=False)
    neighbour = Neighbour(plain.folder)
    config = CONFIG + '[network]\nntp = ["192.0.2.1"]\n' + CARD
    bench.start(plain, config, wire=neighbour, options=["-rtc", "base=2015-02-03T04:05:06"])
    plain.until_said("box.disk_encryption", BOOT)
    expect(get(plain)[0] == 0, "it serves, and nothing keeps its data")
    bench.done("2015: neither TPM nor key: the console says that the configuration wants one")
    path = bench.work / "plain.toml"
    path.write_text(config + '[box]\ndisk_encryption = "none"\n')
    plain.plug("plain", bench.stick("plain.img", {"skerry.toml": path}))
    bench.ready(plain)
    plain.until("it has the time of the time server", lambda: abs(clock(plain) - time.time()) < 120, 240)
    expect(neighbour.asked_time, "the time server was not asked")
    served(bench, plain)
    expect(bench.begins(plain, "skerry-var", EXT4, at=1080), "the data is not a plain file system")
    bench.done("plugged in while it runs: one that wants none; the time is right")
    plain.kill()
    neighbour.close()


def disks(bench):
    """It boots from an NVMe disk, from a SATA disk and from a USB stick, and completes each."""
    for name, disk in DISKS.items():
        box = bench.box(name)
        bench.start(box, disk=disk)
        bench.ready(box)
        served(bench, box)
        expect(bench.begins(box, "skerry-var", LUKS), "the data is not encrypted")
        bench.done(f"from {name}")
        box.kill()


def wrong_configuration(bench):
    """A mistake on the stick is shown with file, line and key, and no port is open; a stick put right is taken."""
    box = bench.box("wrong")
    path = bench.work / "wrong.toml"
    path.write_text(CONFIG.replace("[public]\n", "[public]\nlisten_on = 1\n"))
    stick = bench.stick("wrong.img", {"skerry.toml": path})
    neighbour = Neighbour(box.folder)
    bench.start(box, config=None, wire=neighbour, options=plugged(stick))
    box.until_said("listen_on", BOOT)
    line = path.read_text().split("listen_on")[0].count("\n") + 1
    box.until("the line is told", lambda: f"line {line}" in box.said(), 60)
    expect(get(box)[0] == 0, "an unprovisioned box serves")
    bench.done("the console says what is wrong")
    neighbour.reaches(BOX_LOCAL)
    found = neighbour.tcp(BOX_LOCAL, range(1, 65_536))
    expect(found == (set(), set()), f"an unprovisioned box takes or refuses connections: {found}")
    bench.done("no TCP port answers")
    box.off()
    neighbour.close()
    path.write_text(CONFIG)
    bench.start(box, config=None, options=plugged(bench.stick("wrong.img", {"skerry.toml": path})))
    bench.ready(box)
    served(bench, box)


def nothing_else(bench):
    """A box gives its data to nothing but what was signed: not when something was added to the kernel's command line,
    not without Secure Boot. A kernel image that was changed is not even begun."""
    box = bench.copy(bench.provisioned(), "locked")
    bench.start(box, config=None, cmdline="lockdown=none")
    box.until_said("`lockdown=none` was added", BOOT)
    expect(get(box)[0] == 0, "it serves with a command line that nobody signed")
    bench.done("a longer command line: the console names what was added")
    box.kill()
    bench.start(box, config=None, firmware=WITHOUT_SECURE_BOOT)
    stays_locked(bench, box)
    box.kill()
    kernel, copy = f"::/EFI/Linux/{bench.entries(box)[0]}", bench.work / "changed.efi"
    there = ("-i", f"{box.disk}@@1M")
    bench.tool("mcopy", "-n", *there, kernel, copy)
    with open(copy, "r+b") as file:
        file.seek(copy.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))
    bench.tool("mcopy", "-o", *there, copy, kernel)
    bench.start(box, config=None)
    box.until("it is refused", lambda: re.search(r"(?i)access denied|security violation", box.said()), BOOT)
    expect(BOOTS not in box.said(), "a kernel image that was changed is begun")
    bench.done("a byte of the kernel image changed: the firmware does not begin it")


def stays_locked(bench, box):
    """The console says so, and it does not come to serve."""
    box.until("its data stays locked", lambda: re.search(r"FAILED.*Unlock /var with", box.said()), BOOT)
    expect(get(box)[0] == 0, "it serves without its data")
    bench.done("its data stays locked, and the console says so")


def flipped_byte(bench):
    """A changed root does not run."""
    box = bench.box("flipped")
    flip(box, bench.partition(box, f"skerry_{bench.version}"))
    bench.start(box)
    box.until("the boot stops", lambda: "corrupted" in box.said() or "anic" in box.said(), BOOT)
    expect(get(box)[0] == 0, "it runs all the same")
    bench.done("the boot stops")
