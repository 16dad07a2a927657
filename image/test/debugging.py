"""The debug extension: refused by a release and when somebody else signed it, merged until its time, and then gone.
With its shell it is tried what becomes of a box whose systemd fails."""

import time
from pathlib import Path

from bench import BOOT, BOOTS, CONFIG, expect, shown, until_shown
from machine import Failed
from neighbour import CARD, Neighbour

# Long enough to boot three times, to plug in two sticks and to look around.
OPEN = 720


def debug_extension(bench):
    """An image that was made to take it merges the extension of its key from a stick, and none of another key; a shell
    is open, and the screen says so, until the time of the configuration. A systemd that hangs, by the watchdog of the
    chipset, and one that crashes reset the box. A release takes none."""
    made = bench.out / f"{bench.version}-debuggable" / bench.image().name
    extension = bench.out / "skerry-debug.raw"
    for path in (made, extension):
        expect(path.exists(), f"{path} is not there: make image-debug-test makes it")
    box = bench.machine("debuggable")
    box.flash(made)
    neighbour = Neighbour(box.folder)
    over = time.time() + OPEN
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(over))
    config = f'{CONFIG}[box]\ndebug_until = "{until}"\n[network]\nntp = ["192.0.2.1"]\n{CARD}'
    # The watchdog may reset, as it does on hardware; and a monitor.
    bench.start(box, config, wire=neighbour, options=["-global", "ICH9-LPC.noreboot=off", "-device", "VGA"])
    until_shown(box, "debugging waits for skerry-debug.raw on a stick labelled SKERRY")
    expect(not answers(box), "a shell answers before the extension is there")
    lit = painted(box)
    expect(0.005 < lit < 0.5, f"of the monitor {lit:.1%} is lit: see {box.folder}/monitor.ppm")
    bench.done("it waits for a stick; the monitor shows something too")
    box.plug("stranger", bench.stick("debug-stranger.img", {"skerry-debug.raw": strangers(bench)}))
    until_shown(box, "WRONG debug: systemd-sysext refresh", 120)
    expect(not answers(box), "a shell answers that a stranger signed")
    bench.done("one that somebody else signed is refused")
    box.order("device_del", id="stranger-stick")
    box.plug("ours", bench.stick("debug-ours.img", {"skerry-debug.raw": extension}))
    until_shown(box, f"a shell is open on tty2 and hvc0 until {until}", 120)
    answering(box)
    said = box.run("id -u; uname -m; touch /usr/x", 60).split("\n")
    expect(said[:2] == ["0", "x86_64"] and "Read-only" in said[2], f"the shell says {said}")
    bench.done("the extension is merged: a root shell, and nothing of /usr can be written")
    mounts(box)
    bench.done("nothing that is written can be run; the journal is on /var, and bounded")
    # A moment later, so that the order is answered.
    for what, order in (("hangs", "echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze"), ("crashes", "kill -SEGV 1")):
        answering(box)
        boots = box.said().count(BOOTS)
        box.run(f"sync; (sleep 2; {order}) &", 60)
        box.until(f"a systemd that {what} resets it", lambda: box.said().count(BOOTS) > boots, 300)
        bench.done(f"systemd {what}: the box is reset")
        opened = f"a shell is open on tty2 and hvc0 until {until}"
        box.until("it is up again", lambda: opened in " ".join(box.said().rpartition(BOOTS)[2].split()), BOOT)
        bench.done("and up again, with the shell")
    answering(box)
    boots = box.run("journalctl --list-boots --quiet | grep -c :", 120).strip()
    expect(boots == "3", f"the journal has {boots} boots")
    bench.done("the journal has all three boots")

    release = bench.box("release")
    bench.start(release, config)
    until_shown(release, "box.debug_until: this image was not made to take debug extensions")
    bench.done("a release takes none, and says so")
    release.kill()

    expect(time.time() < over or not answers(box), "the shell is open after its time")
    box.until("the shell is shut", lambda: "a shell is open" not in shown(box), max(0, over - time.time()) + 120)
    expect(time.time() > over, "the shell was shut before its time")
    expect(not answers(box), "the shell answers after its time")
    until_shown(box, "wrong nothing", 60)
    bench.done("its time is over, and the shell gone")
    box.kill()
    neighbour.close()


def mounts(box):
    """What is written stays data, and the journal is kept within its bound."""
    found = {where: (kind, set(options.split(","))) for _, where, kind, options, *_ in
             map(str.split, box.run("cat /proc/mounts", 60).splitlines())}  # fmt: skip
    expect(found["/"][0] == "erofs" and "ro" in found["/"][1], f"/ is {found['/']}")
    for where, kind in (("/var", "ext4"), ("/tmp", "tmpfs")):
        expect(found[where][0] == kind, f"{where} is {found[where]}")
        expect({"nodev", "nosuid", "noexec"} <= found[where][1], f"{where} is mounted with {found[where][1]}")
        said = box.run(f"cd {where} && cp /usr/lib/skerry-debug/busybox tried; ./tried true; rm tried", 60)
        expect("denied" in said, f"a program that was put into {where} says {said!r}")
    said = box.run("journalctl -b -o cat -t systemd-journald | grep '^System Journal'", 120)
    expect("/var/log/journal/" in said and "max 256M" in said, f"journald says {said!r}")


def painted(box):
    """Which part of the monitor is not black."""
    picture = box.folder / "monitor.ppm"
    box.order("screendump", filename=str(picture))
    kind, size, _, pixels = picture.read_bytes().split(b"\n", 3)
    width, height = map(int, size.split())
    expect(kind == b"P6" and len(pixels) == 3 * width * height, f"{picture} is no picture")
    return sum(any(pixels[place : place + 3]) for place in range(0, len(pixels), 3)) / (width * height)


def answering(box):
    """Waits for a shell that has just begun: what is typed before it has its terminal is lost."""
    box.until("the shell answers", lambda: answers(box), 60)


def answers(box):
    """Whether there is a shell."""
    try:
        box.run("true", 10)
    except (Failed, OSError):
        return False
    return True


def strangers(bench):
    """An extension that another key signed."""
    out = bench.work / "stranger"
    date = str(int(Path(bench.out / "skerry-debug.raw").stat().st_mtime))
    bench.make("extension", bench.tree, bench.stranger_keys(), out, date)
    return out / "skerry-debug.raw"
