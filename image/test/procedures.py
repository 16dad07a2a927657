"""What the operator's manual tells to do by hand, done as it is written there: flash and provision a disk, enrol by a
token, reset, replace a disk, get a box up again."""

import os
import re
import subprocess
import time
from pathlib import Path

from bench import (BOOT, BOOTS, CONFIG, LUKS, TOKEN, WATCHED, admin, expect, get, kept, last_screen, machine_shown,
                   plugged, served, until_shown, up, version_shown)  # fmt: skip
from booting import EXT4, stays_locked
from control import Control
from live import live_system, tried
from machine import MACS
from updating import until_runs, updated, went_back
from watching import skerry

# What is printed on the disk that is flashed.
SERIAL = "4C530001230712"
NETWORK = f"""[network]
hostname = "edge-7"

[[network.interfaces]]
mac = "{MACS[0]}"
addresses = ["10.0.2.15/24", "10.0.2.77/24"]
"""
# As a terminal sends the key.
DOWN = b"\x1b[B"


def flash(bench):
    """From a live system: the release is checked, disks are listed, the wrong one is refused, the right one is written,
    read back and provisioned. A box with that disk boots, and needs nothing else."""
    image = bench.image().resolve()
    release = image.parent
    keys = Path(os.environ.get("KEYS", bench.out.parent / "keys")).resolve()
    sums = release / "SHA256SUMS"
    bench.tool("gpgv", "--keyring", keys / "update.gpg", f"{sums}.gpg", sums, see=(keys, release))
    box = bench.machine("flashed")
    box.new_board()
    box.new_disk()
    # On one address alone, by which the box asks itself too.
    texts = {"fleet.toml": CONFIG.replace("0.0.0.0:80", "10.0.2.15:80"), "edge-7.toml": NETWORK}
    source = written(bench, "source", texts, {image.name: image, sums.name: sums}, label="SOURCE")
    live = bench.machine("live", tpm=False)
    live.new_board()
    live.disk = source
    kernel, initrd = live_system(bench)
    live.start(options=[
        "-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0,115200 rdinit=/live/init panic=-1",
        "-drive", f"if=none,id=target,format=raw,file={box.disk}",
        "-device", f"usb-storage,drive=target,serial={SERIAL}",
    ])  # fmt: skip
    live.until_said("the live system is up", BOOT)
    bench.done("a live system, with the release on one disk and an empty one on USB")

    order = f"skerry image flash --image /mnt/{image.name}"
    said = tried(live, order, code=2)
    expect(re.search(rf"/dev/sda +8\.0 GiB .*{SERIAL} +can be taken out", said), f"the disk is not listed:\n{said}")
    expect("vda is in use: mounted at /mnt" in said, f"a disk is listed as free that is not:\n{said}")
    said = tried(live, f"{order} --disk /dev/vda", code=1)
    expect("is not written to: vda is in use" in said, f"a disk that is mounted:\n{said}")
    said = tried(live, f"{order} --disk /dev/sda", code=1, answer="5D530001230712\n")
    expect(f"Write {SERIAL} to go on" in said and "nothing was erased" in said, f"another serial number:\n{said}")
    tried(live, f"mkdir /tmp/other && ln -s /mnt/{image.name} /tmp/other/ && "
                f"printf '%064d  {image.name}\\n' 0 >/tmp/other/SHA256SUMS")  # fmt: skip
    other = order.replace("/mnt/", "/tmp/other/")
    said = tried(live, f"{other} --disk /dev/sda --yes-erase {SERIAL}", 600, code=3)
    expect("nothing was erased" in said, f"another checksum:\n{said}")
    expect(box.disk.stat().st_blocks == 0, "something was written")
    bench.done("disks are listed; one in use, another serial number and another checksum are refused")

    said = tried(live, f"{order} --disk /dev/sda", 600, answer=f"{SERIAL}\n")
    expect(re.search(r"iB of .*iB/s, .* left", said), f"no progress is shown:\n{said}")
    expect("written and read back" in said and "as SHA256SUMS says" in said, f"it was not verified:\n{said}")
    same = subprocess.run(["cmp", "-n", str(image.stat().st_size), image, box.disk], stdout=subprocess.DEVNULL)
    expect(same.returncode == 0, "the disk has not what the image has")
    bench.done("written, with progress, and read back")
    said = tried(live, f"blockdev --rereadpt /dev/sda && {order} --disk /dev/sda1", code=1)
    expect("name the whole disk, /dev/sda" in said, f"a partition:\n{said}")
    said = tried(live, "skerry image provision --disk /dev/sda --config /mnt/fleet.toml --network /mnt/edge-7.toml")
    expect("done, and read back" in said, f"the configuration was not written:\n{said}")
    tried(live, "sync")
    live.kill()

    bench.start(box, config=None)
    bench.ready(box)
    until_shown(box, "addresses 10.0.2.15 10.0.2.77", 60)
    until_shown(box, "wrong nothing", 60)
    served(bench, box)
    expect(bench.begins(box, "skerry-var", LUKS), "the data is not encrypted")


def enrol_and_replace_disk(bench):
    """A token on a stick makes a box a node of a fleet, as soon as the control node answers. With a new disk that has a
    token for the same id it is that node again; the old one stays locked in another box."""
    control = Control(bench)
    try:
        box = enrol(bench, control)
        replace_disk(bench, control, box)
    finally:
        control.stop()


def enrol(bench, control):
    stick = bench.stick("enrol.img", {})
    skerry("image", "provision", "--disk", stick, *control.token())
    control.stop()
    box = bench.box("enrolled")
    bench.start(box, config=None, reach=control.reach, options=plugged(stick))
    until_shown(box, "WRONG enrol: skerry.token (stick sda): cannot enrol")
    expect(get(box)[0] == 0, "a box without a configuration serves")
    bench.done("no control node answers, and the screen says so")
    control.start()
    until_shown(box, "ready and serving, the control node answers")
    bench.done("it is a node of its fleet")
    until_shown(box, "wrong nothing", 60)
    control.hears(box, bench.version)
    control.sees(box, bench.version)
    bench.done("its fleet counts the version in its ring; an operator asks it over mutual TLS")
    served(bench, box)
    return box


def replace_disk(bench, control, box):
    before = machine_shown(box)
    box.off()
    control.until_silent()
    # 1 and 2 of the manual; the disk is an image at first.
    token = control.token()
    elsewhere = bench.copy(box, "elsewhere")
    box.new_disk()
    skerry("image", "flash", "--image", bench.image(), "--disk", box.disk, "--yes-erase", box.disk)
    skerry("image", "provision", "--disk", box.disk, "--config", control.own, *token)
    bench.start(box, config=None, reach=control.reach)
    until_shown(box, "ready and serving, the control node answers")
    bench.done("a new disk, and the same node")
    until_shown(box, "wrong nothing", 60)
    control.hears(box, bench.version)
    expect(machine_shown(box) != before, "the machine id outlived its disk")
    refilled(bench, box)
    box.kill()

    elsewhere.new_board()
    bench.start(elsewhere, config=None)
    stays_locked(bench, elsewhere)
    elsewhere.kill()


def update_in_a_fleet(bench):
    """A node of a fleet goes back from a version that does not hear the control node, which the one before heard. It
    keeps one where that is known to be down, and the fleet sees which version it has."""
    control = Control(bench)
    try:
        member = enrol(bench, control)
        member.off()
        stick = plugged(bench.update_stick(".2"))

        deaf = bench.copy(member, "deaf")
        bench.start(deaf, config=None, reach=control.reach, options=stick)
        until_shown(deaf, "the control node answers")
        deaf.until("it reboots", lambda: deaf.said().count(BOOTS) > 1, BOOT)
        control.stop()
        until_runs(bench, deaf, ".2")
        deaf.until("it is left", lambda: "went back" in last_screen(deaf), BOOT + 300)
        went_back(bench, deaf, ".2")
        until_shown(deaf, "the control node does not answer, and did before the update", 60)
        expect(version_shown(deaf) == bench.version, f"it runs version {version_shown(deaf)}")
        bench.done("a version that does not hear the control node is left")
        deaf.kill()

        bench.start(member, config=None, reach=control.reach)
        until_shown(member, "ready and serving, the control node does not answer")
        member.plug("update", bench.update_stick(".2"))
        until_runs(bench, member, ".2")
        bench.ready(member)
        member.until("it is blessed", lambda: bench.blessed(member, ".2"), 300)
        bench.done("where it was known to be down, the version is kept")
        control.start()
        control.hears(member, bench.version + ".2")
        control.sees(member, bench.version + ".2")
        bench.done("the fleet sees the version")
    finally:
        control.stop()


def credentials_of_the_tpm(bench):
    """Files of the boot partition that are encrypted to a box's TPM are its configuration and the admin token. On a
    board with another TPM they are nothing; a stick provisions that."""
    box = bench.box("sealed")
    texts = {"skerry.toml": CONFIG + WATCHED, "skerry.node.admin-token": TOKEN}
    sealed = [box.sealed(name, text) for name, text in texts.items()]
    on_boot_partition(bench, box, sealed)
    bench.start(box, config=None)
    bench.ready(box)
    until_shown(box, "wrong nothing", 60)
    served(bench, box)
    expect(admin(box, "/status")[0] == 200, "the token of the admin listener is not the one that was encrypted")
    box.kill()

    stranger = bench.box("stranger")
    on_boot_partition(bench, stranger, sealed)
    bench.start(stranger, config=None)
    until_shown(stranger, "health waits for its configuration")
    bench.done("on another board it waits for its configuration")
    stranger.plug("stick", written(bench, "stranger", {"skerry.toml": CONFIG}))
    bench.ready(stranger)
    served(bench, stranger)


def factory_reset(bench):
    """A stick with the machine id resets a box: one with a configuration at its next boot, one without at once. All
    that it had is lost but its versions; it is another machine, and a stick provisions it."""
    base = bench.provisioned()
    box = bench.copy(base, "reset")
    before, volume = machine_shown(base), var_header(bench, box)
    asks = written(bench, "reset", {"skerry.factory-reset": f"{before}\n"})
    bench.start(box, config=None, options=plugged(asks))
    second = other_machine(box, before)
    until_shown(box, "health waits for its configuration", 60)
    expect(get(box)[0] == 0, "it serves")
    again = var_header(bench, box)
    expect(again.startswith(LUKS) and again != volume, "the encrypted volume is the one that was there")
    bench.done("reset at a boot: another machine, which waits for its configuration; the stick is still there")
    box.plug("again", written(bench, "reset-again", {"skerry.factory-reset": f"{second}\n"}))
    other_machine(box, second)
    until_shown(box, "health waits for its configuration", 60)
    bench.done("and once more, without a configuration: at once")
    box.plug("anew", written(bench, "reset-anew", {"skerry.toml": CONFIG}))
    bench.ready(box)
    refilled(bench, box)
    expect(bench.entries(box) == bench.entries(base), "other versions are installed than before")


def plain_var_refused(bench):
    """Data that nothing encrypts, with a configuration that wants a TPM: where it came from does not matter, the node
    does not start and the screen says why. A factory reset, on the spot, encrypts it."""
    box = bench.box("unencrypted", tpm=False)
    bench.start(box, CONFIG + '[box]\ndisk_encryption = "none"\n')
    bench.ready(box)
    served(bench, box)
    expect(bench.begins(box, "skerry-var", EXT4, at=1080), "the data is not a plain file system")
    before = machine_shown(box)
    box.off()

    wanted = CONFIG + '[box]\ndisk_encryption = "tpm2"\n'
    rewrite(bench, box, "/lib/skerry-box/config/skerry.toml", wanted)
    box.tpm = True
    bench.start(box, config=None)
    line = wanted.split("disk_encryption")[0].count("\n") + 1
    until_shown(box, f"WRONG provision: skerry.toml, line {line}: `box.disk_encryption` wants more than there is")
    until_shown(box, "though it has a TPM", 60)
    until_shown(box, "health waits for its configuration", 60)
    expect(get(box)[0] == 0, "it serves, and nothing encrypts its data")
    bench.done("in a box with a TPM: the node does not start, and the screen says why")
    asks = {"skerry.factory-reset": f"{before}\n", "skerry.toml": wanted}
    box.plug("reset", written(bench, "unencrypted-reset", asks))
    other_machine(box, before)
    bench.ready(box)
    expect(bench.begins(box, "skerry-var", LUKS), "the data is not encrypted after a reset")
    refilled(bench, box)


def disk_key(bench):
    """Without a TPM skerry.disk-key opens the data at each boot, on another board too. With another key or none it
    stays locked, the console says so, and nothing is lost."""
    key = {"skerry.disk-key": "a key of the test"}
    box = bench.box("disk-key", tpm=False)
    bench.start(box, credentials=key)
    bench.ready(box)
    served(bench, box)
    expect(bench.begins(box, "skerry-var", LUKS), "the data is not encrypted")
    before, volume = machine_shown(box), var_header(bench, box)
    box.off()

    bench.start(box, config=None, credentials={"skerry.disk-key": "another key"})
    stays_locked(bench, box)
    box.kill()
    # Minutes in which nothing happens; then what failed, 20 s to read it, and a reboot.
    bench.start(box, config=None)
    box.until("it gives up", lambda: re.search(r"TIME.*/dev/skerry/var", box.said()), BOOT)
    bench.done("without a key: a wait for /dev/skerry/var, in vain")
    box.until("it reboots", lambda: box.said().count(BOOTS) > 1, 180)
    expect(get(box)[0] == 0, "it serves without its data")
    bench.done("and a reboot")
    box.kill()
    expect(var_header(bench, box) == volume, "the encrypted volume is another one")

    box.new_board()
    bench.start(box, config=None, credentials=key)
    bench.ready(box)
    kept(bench, box)
    expect(machine_shown(box) == before, "it has another machine id with the same data")


def recover(bench):
    """The boot menu boots the older version, which runs until the next start, set as the default too. A wrong
    configuration is shown then, and the box runs on with its own. A version whose kernel image is taken off the boot
    partition is out of the way, and the older one takes newer versions."""
    box = bench.copy(updated(bench)[0], "recovered")
    bench.start(box, config=None, typed=True)
    box.hold(b" ", "the boot menu is there", lambda: f"Skerry {bench.version}.2" in box.said(), BOOT)
    # Set as the default, and chosen.
    box.type(DOWN + b"d\r")
    version = up(bench, box)
    expect(version == bench.version, f"version {version} runs, and the older one was chosen")
    bench.ready(box)
    expect("went back" not in last_screen(box), "it says that a version failed")
    kept(bench, box)
    bench.done("the boot menu: the older version")
    wrong = CONFIG.replace("[public]\n", "[public]\nlisten_on = 1\n")
    stick = written(bench, "recover-wrong", {"skerry.toml": wrong})
    box.plug("wrong", stick)
    # A stick has the box look for updates; and for a configuration at its next start.
    time.sleep(30)
    expect(version_shown(box) == bench.version, "it went on to the newer version by itself")
    box.off()
    bench.start(box, config=None, options=plugged(stick))
    version = up(bench, box)
    expect(version == bench.version + ".2", f"version {version} runs after another start")
    line = wrong.split("listen_on")[0].count("\n") + 1
    until_shown(box, f"WRONG provision: skerry.toml (stick sda), line {line}: ", 60)
    kept(bench, box)
    bench.done("the next start: the newer version; a wrong configuration is shown, and changes nothing")
    box.off()

    bad = [name for name in bench.entries(box) if name.startswith(f"skerry_{bench.version}.2")]
    expect(len(bad) == 1, f"on the boot partition: {bench.entries(box)}")
    bench.tool("mdel", "-i", f"{box.disk}@@1M", f"::/EFI/Linux/{bad[0]}")
    bench.start(box, config=None)
    version = up(bench, box)
    expect(version == bench.version, f"version {version} runs, whose kernel image is gone")
    bench.ready(box)
    kept(bench, box)
    box.plug("newer", bench.update_stick(".2"))
    until_runs(bench, box, ".2")
    bench.ready(box)
    kept(bench, box)


def written(bench, name, texts, files=None, **options):
    """A stick with these texts, and files of this machine."""
    inside = dict(files or {})
    for path, text in texts.items():
        inside[path] = bench.work / f"{name}-{path}"
        inside[path].write_text(text)
    return bench.stick(f"{name}.img", inside, **options)


def on_boot_partition(bench, box, credentials):
    """Puts encrypted credentials where systemd-boot hands them over."""
    partition = f"{box.disk}@@1M"
    bench.tool("mmd", "-i", partition, "::/loader/credentials")
    for path in credentials:
        bench.tool("mcopy", "-i", partition, path, f"::/loader/credentials/{path.name}")


def other_machine(box, before):
    """Waits until it is not the machine any more that it was; gives the id that it has."""
    return box.until("it is another machine", lambda: machine_shown(box).replace(before, ""), 2 * BOOT)


def refilled(bench, box):
    """The box has nothing of what it had: the file comes from the origin once more."""
    asked = bench.origin.asked
    status, _, body = get(box)
    expect(status == 200 and body == bench.origin.body, f"a GET gave {status} and {len(body)} bytes")
    expect(bench.origin.asked > asked, "the old data is still there")
    kept(bench, box)


def var_header(bench, box):
    """How the partition of the data begins: what is encrypted has an id there."""
    with open(box.disk, "rb") as disk:
        disk.seek(bench.partition(box, "skerry-var"))
        return disk.read(4096)


def rewrite(bench, box, inside, text):
    """Another text for a file of a /var that is not encrypted, as whoever has the disk can write it."""
    path = bench.work / f"{bench.name}-rewritten"
    path.write_text(text)
    volume = f"{box.disk}?offset={bench.partition(box, 'skerry-var')}"
    for order in (f"rm {inside}", f"write {path} {inside}"):
        bench.tool("debugfs", "-w", "-R", order, volume)
    found = bench.tool("debugfs", "-R", f"cat {inside}", volume)
    expect(found == text, f"{inside} was not written: {found[:300]}")
