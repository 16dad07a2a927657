"""Updates: to a good version by a stick and by HTTPS, back from one that is bad, and from one that went bad."""

import json
import time

from bench import (BOOT, CONFIG, TOKEN_CREDENTIAL, WATCHED, admin, expect, flip, kept, last_screen, metric, plugged,
                   until_shown, up, version_shown)  # fmt: skip
from neighbour import CARD, Neighbour
from origin import Authority, Proxy, Releases

# Boots that a new version has to prove itself.
TRIES = 3
# From switching on until the window opens: a boot, and a look at a stick; seconds.
LATER = 360
# The journal's warnings are read on the serial line too.
TOLD = "systemd.journald.forward_to_console=1 systemd.journald.max_level_console=warning"
# And what went well.
ALL_TOLD = TOLD.replace("warning", "info")


def installed(bench):
    """A box that took the second version from a stick and is about to boot it; and how long that took, seconds."""
    return bench.bases.of("installed", lambda: install(bench), bench.place)


def install(bench):
    box = bench.copy(bench.provisioned(), "installed")
    bench.start(box, config=None, options=[*plugged(bench.update_stick(".2")), "-no-reboot"])
    up(bench, box)
    begun = time.monotonic()
    box.until_off(BOOT)
    took = time.monotonic() - begun
    names = bench.entries(box)
    untried = {f"skerry_{bench.version}.2+{TRIES}{done}.efi" for done in ("", "-0")}
    expect(untried & set(names), f"version 2 is not installed: {names}")
    bench.done(f"version 2 is installed within {took:.0f} s")
    return box, took


def updated(bench):
    """The same box after it proved the new version good, switched off; and how long that took, seconds."""
    return bench.bases.of("updated", lambda: bless(bench), bench.place)


def bless(bench):
    box = bench.copy(installed(bench)[0], "updated")
    begun = time.monotonic()
    bench.start(box, config=None)
    until_runs(bench, box, ".2")
    bench.ready(box)
    box.until("it is blessed", lambda: bench.blessed(box, ".2"), 300)
    took = time.monotonic() - begun
    bench.done(f"version 2 is blessed within {took:.0f} s")
    kept(bench, box)
    box.off()
    return box, took


def until_runs(bench, box, suffix, seconds=2 * BOOT):
    box.until(f"version {suffix} runs", lambda: version_shown(box) == bench.version + suffix, seconds)
    bench.done(f"version {suffix or '1'} runs")


def went_back(bench, box, suffix):
    """The screen says from which version."""
    words = f"from version {bench.version}{suffix}"
    box.until(f"the screen says that it went back {words}", lambda: f"went back  {words}" in last_screen(box), 120)


def update_and_rollback(bench):
    """To a good version by a stick, which is blessed; then to one whose node does not start, from which it comes back
    by itself and says so: on the screen, in the log and in its metrics."""
    bad = bench.version + ".3"
    box = bench.copy(updated(bench)[0], "rollback")
    stick = bench.update_stick(".3")
    bench.start(box, CONFIG + WATCHED, credentials=TOKEN_CREDENTIAL, cmdline=TOLD, options=plugged(stick))
    bench.ready(box)
    until_runs(bench, box, ".3")
    bench.place.give()
    box.until_said(f"version {bad} failed, and the box reboots", BOOT + 300)
    bench.done("the log says that version 3 failed")
    # It may have tries left, and gives them up.
    until_runs(bench, box, ".2", 5 * BOOT)
    went_back(bench, box, ".3")
    bench.ready(box)
    kept(bench, box)
    names = bench.entries(box)
    expect(any(name.startswith(f"skerry_{bad}+0-") for name in names), f"version 3 may still be booted: {names}")
    expect(metric(box, "skerry_box_rolled_back") == 1, "the metrics do not say that it went back")
    expect(metric(box, "skerry_box_image_info", version=bench.version + ".2") == 1, "the metrics tell another version")
    state = json.loads(admin(box, "/status")[2])["box"]
    expect(state["previous_failed"]["version"] == bad, f"the status tells of {state['previous_failed']}")
    bench.done(f"back on version 2, and told: {state['previous_failed']['reason'][:60]}")


def flipped_byte_after_update(bench):
    """The root of a version that proved good is changed on the disk: the box goes back to the one before, and says so.
    (Seven of its nine tries are taken from it, which would take ten minutes more.)"""
    box = bench.copy(updated(bench)[0], "worn")
    flip(box, bench.partition(box, f"skerry_{bench.version}.2"))
    bench.tried(box, ".2", left=2)
    bench.start(box, CONFIG + WATCHED, credentials=TOKEN_CREDENTIAL, cmdline=TOLD)
    box.until("a boot stops", lambda: "corrupted" in box.said() or "anic" in box.said(), BOOT)
    bench.done("version 2 does not run any more")
    until_runs(bench, box, "", 5 * BOOT)
    went_back(bench, box, ".2")
    box.until_said(f"the box went back from version {bench.version}.2", BOOT)
    bench.ready(box)
    kept(bench, box)
    expect(metric(box, "skerry_box_rolled_back") == 1, "the metrics do not say that it went back")


def update_over_https(bench):
    """From a server whose certificate is the configured authority's, and from no other."""
    address = "10.0.2.100"
    right, stranger = Authority(bench, "authority"), Authority(bench, "stranger")
    releases = Releases(bench.parts(".2"), stranger.identity(f"IP:{address}"))
    box = bench.copy(bench.provisioned(), "https")
    bench.start(box, from_source(address, right), reach={8443: releases.port})
    bench.ready(box)
    # A stick has the box look at once; without an update on it, at the source.
    box.plug("first", bench.stick("https-first.img", {}))
    box.until("the stranger is not believed", lambda: "update: systemd-sysupdate" in last_screen(box), 300)
    expect(releases.refused and not releases.asked, f"a stranger was asked for {releases.asked}")
    bench.done("a server with another authority's certificate is not believed")
    releases.identity = right.identity(f"IP:{address}")
    box.plug("second", bench.stick("https-second.img", {}))
    until_runs(bench, box, ".2")
    missing = {part.name for part in bench.parts(".2")} - set(releases.asked)
    expect(not missing, f"not asked for: {missing}")
    bench.ready(box)
    kept(bench, box)
    releases.stop()


def update_in_a_window(bench):
    """What a stick has is not installed before the window opens; and in the window only what the right key signed."""
    opens = (int(time.time()) + LATER) // 60 * 60
    hours = "-".join(time.strftime("%H:%M", time.gmtime(at)) for at in (opens, opens + 3600))
    config = CONFIG.replace("window = []", f'window = ["{hours}"]') + '[network]\nntp = ["192.0.2.1"]\n' + CARD
    box = bench.copy(bench.provisioned(), "window")
    neighbour = Neighbour(box.folder)
    bench.start(box, config, cmdline=ALL_TOLD, wire=neighbour)
    bench.ready(box)
    before = bench.entries(box)
    box.until("it has asked for the time", lambda: neighbour.asked_time, 120)
    right = bench.update_stick(".2")
    box.plug("early", right)
    box.until_said("updates wait for their window", 120)
    expect(time.time() < opens, "the window was open when the stick was looked at")
    bench.done(f"before {hours} the stick is not taken")
    box.order("device_del", id="early-stick")
    bench.place.give()
    box.until("the window opens", lambda: time.time() > opens + 1, LATER)
    expect(bench.entries(box) == before, f"installed before the window: {bench.entries(box)}")
    box.plug("stranger", bench.update_stick(".2", bench.stranger_parts(".2")))
    until_shown(box, "update/SHA256SUMS is not signed by who signs versions of this image", 300)
    expect(bench.entries(box) == before, f"installed, and a stranger signed it: {bench.entries(box)}")
    bench.done("in the window one that another key signed is refused")
    box.order("device_del", id="stranger-stick")
    box.plug("right", right)
    until_runs(bench, box, ".2")
    bench.ready(box)
    kept(bench, box)
    box.kill()
    neighbour.close()


def update_through_a_proxy(bench):
    """From a server that the box neither reaches nor knows the address of: the proxy does. What another key signed is
    not taken from it."""
    name, at = "releases.example", "10.0.2.100"
    authority = Authority(bench, "behind-proxy")
    releases = Releases(bench.stranger_parts(".2"), authority.identity(f"DNS:{name}"))
    proxy = Proxy({f"{name}:8443": releases.port})
    config = from_source(name, authority) + f'[network]\nproxy = "http://{at}:3128"\n'
    box = bench.copy(bench.provisioned(), "proxy")
    bench.start(box, config, reach={3128: proxy.port})
    bench.ready(box)
    box.plug("first", bench.stick("proxy-first.img", {}))
    box.until("a stranger is not believed", lambda: "update: systemd-sysupdate" in last_screen(box), 300)
    expect({"SHA256SUMS", "SHA256SUMS.gpg"} == set(releases.asked), f"it was asked for {releases.asked}")
    bench.done("what another key signed is refused")
    releases.serve(bench.parts(".2"))
    box.plug("second", bench.stick("proxy-second.img", {}))
    until_runs(bench, box, ".2")
    expect(set(proxy.asked) == {f"CONNECT {name}:8443"}, f"the proxy was asked for {proxy.asked}")
    bench.ready(box)
    kept(bench, box)
    proxy.stop()
    releases.stop()


def from_source(host, authority):
    """A configuration with a source of updates, whose certificate is of this authority."""
    update = f'[update]\nsource = "https://{host}:8443/skerry"\nautomatic = true\n'
    update += f'authorities = """\n{authority.file.read_text()}"""\n'
    return CONFIG.replace("[update]\n", update)
