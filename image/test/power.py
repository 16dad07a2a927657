"""The plug is pulled at random moments of an update: QEMU is killed, and the disk has what was written until then."""

import os
import random
import time

from bench import BOOT, BOOTS, expect, kept, last_screen, plugged, up
from machine import Failed
from updating import TRIES, installed, updated

# Of all cuts so many fall into the trial of the new version, which takes longer than its installation. Two of three
# of these come at all its tries.
ON_TRIAL = 0.6


def seeded(bench):
    seed = os.environ.get("SEED") or str(random.randrange(1 << 32))
    bench.say(f"SEED={seed}")
    return random.Random(f"{seed} {bench.name}")


def on_trial(cuts):
    return round(cuts * ON_TRIAL)


def power_cuts(bench):
    """The plug is pulled while an update is installed, again and again on the same disk: the box comes up each time,
    and the update comes through at last."""
    chance = seeded(bench)
    took = installed(bench)[1]
    cuts = bench.cuts - on_trial(bench.cuts)
    stick = plugged(bench.update_stick(".2"))
    box, made = None, 0
    while True:
        if box is None:
            box = bench.copy(bench.provisioned(), "cuts")
        version = comes_up(bench, box, [*stick, "-no-reboot"])
        if made == cuts:
            break
        if version == bench.version:
            moment, begun = chance.uniform(0, took), time.monotonic()
            while box.runs() and time.monotonic() < begun + moment:
                time.sleep(0.1)
            if box.runs():
                box.kill()
                made += 1
                bench.done(f"cut {made} of {cuts}, {moment:.1f} s after it was up")
                continue
            # Cuts that come too late are boots in vain; but they shall come late too.
            through = time.monotonic() - begun
            took = (took + through) / 2
            bench.done(f"the update was through after {through:.1f} s, before the cut")
        # From the beginning.
        box.kill()
        box = None
    if version == bench.version:
        box.until_off(BOOT)
        bench.start(box, config=None)
        version = up(bench, box)
    expect(version == bench.version + ".2", f"in the end there is version {version}")
    kept(bench, box)
    bench.done("the update came through")


def power_cuts_on_trial(bench):
    """The plug is pulled while the new version boots for the first time: the box comes up each time; and with the
    version before, when that happens at each of its tries."""
    chance = seeded(bench)
    cuts = on_trial(bench.cuts)
    base = installed(bench)[0]
    took = updated(bench)[1]
    box = bench.copy(base, "trial")
    rows = cuts // TRIES - cuts // TRIES // 3
    single = cuts - rows * TRIES
    for cut in range(1, single + 1):
        box.become(base)
        moment = chance.uniform(0, took)
        bench.start(box, config=None)
        time.sleep(moment)
        box.kill()
        bench.done(f"cut {cut} of {cuts}, {moment:.1f} s after it was switched on")
        bench.start(box, config=None)
        bench.done(f"it comes up with version {up(bench, box)}")
        kept(bench, box)
        box.kill()
    for row in range(rows):
        box.become(base)
        for cut in range(single + row * TRIES + 1, single + (row + 1) * TRIES + 1):
            bench.start(box, config=None)
            # By now systemd-boot has counted the try; and nothing has asked for the health of the box yet.
            box.until_said(BOOTS, BOOT)
            moment = chance.uniform(0, 12)
            time.sleep(moment)
            box.kill()
            bench.done(f"cut {cut} of {cuts}, {moment:.1f} s after the kernel began")
        bench.start(box, config=None)
        version = up(bench, box)
        expect(version == bench.version, f"after {TRIES} cuts of its first boots version {version} runs")
        box.until("the screen says that it went back", lambda: "went back" in last_screen(box), 120)
        kept(bench, box)
        box.kill()
        bench.done("the version before, after a cut at each try")


def comes_up(bench, box, options):
    """The version that the box ends up with. It may try the new one in vain first, and reset itself."""
    for _ in range(TRIES + 2):
        bench.start(box, config=None, options=options)
        try:
            version = up(bench, box)
            bench.done(f"it comes up with version {version}")
            return version
        except Failed as words:
            if box.runs():
                raise
            box.kill()
            bench.done(f"it reset itself: {str(words).splitlines()[0]}")
    raise Failed("it does not come up")
