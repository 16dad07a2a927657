#!/usr/bin/env -S python3 -B
"""scenarios.py TREE OUT WORK VERSION [NAME...]: boots what `make image-test` built and asserts, from outside over
forwarded ports, a wire and the serial console, what the manual promises. TREE is the tools tree; OUT holds the images
VERSION, VERSION.2 (as good) and VERSION.3 (its node does not start); below WORK disks and serial logs are kept, the
disks of scenarios that failed. Without names every promise is proven; `procedures` stands for those of the manual.
Prints each step's time, and at the end what passed and failed. In the environment: JOBS, scenarios at once (2); CUTS,
how often the plug is pulled during updates (20); SEED, to pull it at the same moments again; SKERRY_BIN, the node's
program on this machine; KEYS, the folder of the keys that the images are signed with (beside OUT).
"""

import os
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import booting
import debugging
import power
import procedures
import updating
import watching
from bench import Bases, Bench, forget
from machine import Failed, Machine
from places import Place, Places

# The longest first; but others wait for the box that the very first one provisions.
PROMISES = [
    updating.update_and_rollback,
    booting.clock_and_no_tpm,
    power.power_cuts,
    power.power_cuts_on_trial,
    updating.flipped_byte_after_update,
    updating.update_over_https,
    booting.first_boot,
    watching.from_outside,
    booting.wrong_configuration,
    booting.nothing_else,
    booting.flipped_byte,
]
# What the manual has an operator do.
PROCEDURES = [
    procedures.disk_key,
    procedures.recover,
    procedures.update_in_a_fleet,
    procedures.enrol_and_replace_disk,
    procedures.credentials_of_the_tpm,
    procedures.factory_reset,
    procedures.plain_var_refused,
    updating.update_through_a_proxy,
    updating.update_in_a_window,
    watching.two_uplinks,
    procedures.flash,
]
# Each by its name alone: it needs an image that is made otherwise, or takes long for what it shows.
OTHERS = [debugging.debug_extension, booting.disks]
# What the kernel says when the emulator has lost a timer of a processor, as it does on a machine that is very busy.
STALLED = "Possible timer handling issue on cpu"


def in_turn(place, ended, scenario, *arguments):
    """Runs it when there is a place for it."""
    place.take()
    try:
        return ("not begun", 0) if ended.is_set() else run(scenario, *arguments, place=place)
    finally:
        place.give()


def run(scenario, *arguments, place, again=True):
    """Why it failed, or nothing; and how long it took, seconds. Once more where the emulator failed."""
    bench = Bench(*arguments, name=scenario.__name__, place=place)
    bench.say(" ".join(scenario.__doc__.split()))
    words = ""
    try:
        scenario(bench)
    except Failed as error:
        words = str(error)
        bench.say(f"FAILED: {words}")
    except Exception as error:
        words = repr(error)
        bench.say(f"FAILED: {traceback.format_exc()}")
    finally:
        stalled = words and any(STALLED in box.said() for box in bench.boxes)
        bench.end(failed=bool(words))
    took = time.monotonic() - bench.begun
    bench.say(f"{took:7.1f} s  in all")
    if stalled and again:
        bench.say("the emulator lost a timer: once more")
        for box in bench.boxes:
            if box.serial.exists():
                box.serial.replace(box.folder.with_name(f"{box.folder.name}-first-try.log"))
        bench.bases.forgive()
        words, seconds = run(scenario, *arguments, place=place, again=False)
        took += seconds
        if not words:
            print(f"{scenario.__name__:>28}  passed at its second try", flush=True)
    return words, took


def main():
    tree, out, work, version, *names = sys.argv[1:]
    known = {scenario.__name__: [scenario] for scenario in PROMISES + PROCEDURES + OTHERS} | {"procedures": PROCEDURES}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no such scenario: {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [scenario for name in names for scenario in known[name]] or PROMISES
    Path(work).mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bases = Bases()
    cuts = int(os.environ.get("CUTS", "20"))
    pool = ThreadPoolExecutor(max_workers=len(chosen))
    places = Places(int(os.environ.get("JOBS", "2")))
    ended = threading.Event()
    given = (tree, out, work, version, bases, cuts)
    begun = time.monotonic()
    try:
        futures = {
            one: pool.submit(in_turn, Place(places, rank), ended, one, *given) for rank, one in enumerate(chosen)
        }
        results = {one.__name__: future.result() for one, future in futures.items()}
    finally:
        ended.set()
        pool.shutdown(wait=False, cancel_futures=True)
        Machine.kill_all()
    failed = [name for name, (words, _) in results.items() if words]
    print()
    for name, (words, took) in results.items():
        print(f"{name:>28}  {took:7.1f} s  {'FAILED: ' + words.splitlines()[0] if words else 'passed'}")
    if not failed:
        for box in bases.boxes():
            forget(box)
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed, in {time.monotonic() - begun:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
