#!/usr/bin/env -S python3 -B
"""measure.py TREE OUT WORK VERSION: boots the debug image of VERSION (OUT/VERSION-debug) as a box that a credential
provisions, and asks it, in its shell, what the manual says of hardening. TREE is the tools tree. Prints what was
measured and writes it to WORK/measured.txt, beside what lynis says and what kernel-hardening-checker goes by; the disk
is kept when it fails. A debug image has more than a release: units that OUT/VERSION lacks are marked, if that is
there. In the environment: CHECKER, the program kernel-hardening-checker on this machine (the one on PATH).
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from bench import BOOT, BOOTS, LUKS, Bases, Bench, expect, served
from machine import Failed, Machine
from places import Place, Places

# lynis starts thousands of programs, each of them emulated.
LYNIS = 2400
UNITS = "/usr/lib/systemd/system"
# Without anything to type at, to colour or to cut off.
SHELL = "PS2= HISTFILE=; shopt -u checkwinsize; export LC_ALL=C COLUMNS=200 SYSTEMD_PAGER= SYSTEMD_COLORS=0"
# A connection that asks nothing: a compiler that waits.
COMPILER = """(sleep 600 | logger --socket /run/skerry-compile/socket >/dev/null 2>&1 &)
until systemctl --quiet is-active 'skerry-compile@*'; do sleep 1; done"""
EXPOSURE = f"""for unit in {UNITS}/skerry*.service; do
    unit=${{unit##*/}}
    systemd-analyze security "${{unit/@./@measured.}}" | tail -n 1
done"""
STATUS = "Name|Uid|VmSize|CapEff|CapBnd|NoNewPrivs|Seccomp"
# Headings, orders, and how long each may take, seconds.
ORDERS = [
    ("What was measured", ". /etc/os-release; echo $PRETTY_NAME; uname -rv; systemctl --version | head -n 1", 60),
    ("Boot", "systemd-analyze; systemd-analyze critical-chain skerry.service; systemd-analyze blame | head -n 20", 120),
    ("Units that failed", "systemctl is-system-running; systemctl --failed --full", 60),
    ("Units, verified", f"systemd-analyze verify --man=no {UNITS}/skerry*.{{service,socket,timer}}", 300),
    ("Listening", "ss -lntup", 60),
    ("Raw and packet sockets", "ss -lnw0p", 60),
    ("Kernel command line", "cat /proc/cmdline", 60),
    ("Lockdown, taint", "cat /sys/kernel/security/lockdown /proc/sys/kernel/tainted", 60),
    ("Mounts", "findmnt --list --notruncate --output TARGET,SOURCE,FSTYPE,OPTIONS", 60),
    ("Warnings of this boot, the last 50", "journalctl -b -p warning --no-pager | tail -n 50", 120),
]


class DebugBench(Bench):
    """With boxes that have a shell."""

    def image(self, suffix=""):
        return self.out / f"{self.version}-debug" / f"skerry_{self.version}_x86-64.raw"


class Report:
    """A file, which has what was measured before something failed."""

    def __init__(self, path):
        self.file = open(path, "w")

    def part(self, heading, text):
        for out in (sys.stdout, self.file):
            print(f"\n## {heading}\n\n{text.strip() or 'nothing'}", file=out, flush=True)


def measure(bench, report):
    box = booted(bench)
    asked(box, "systemctl is-system-running --wait", BOOT)
    for heading, order, seconds in ORDERS:
        report.part(heading, asked(box, order, seconds))
    bench.done("boot, listeners, mounts")
    asked(box, COMPILER, 60)
    units = released(bench)
    report.part("Exposure of what is loaded", marked(asked(box, "systemd-analyze security", 300), units))
    report.part("Exposure of skerry.service", asked(box, "systemd-analyze security skerry.service", 120))
    report.part("Exposure of Skerry's units", asked(box, EXPOSURE, 600))
    report.part("Capabilities of what runs", marked(capabilities(box), units))
    bench.done("exposure and capabilities")
    report.part("kernel-hardening-checker", checked(bench, box))
    bench.done("the kernel")
    report.part("lynis", lynis(bench, box))
    bench.done("lynis")


def booted(bench):
    """A box that was provisioned by a credential and has started once more, as it will ever after."""
    box = bench.box("measured")
    bench.start(box)
    box.until_said("Secure Boot keys successfully enrolled", BOOT)
    box.until_said(BOOTS, BOOT)
    bench.ready(box)
    served(bench, box)
    expect(bench.begins(box, "skerry-var", LUKS), "the data is not encrypted")
    # Its shell would hold up a shutdown.
    box.run("sync", BOOT)
    box.kill()
    bench.start(box, config=None)
    box.until_said(BOOTS, BOOT)
    bench.ready(box)
    served(bench, box)
    box.run(SHELL, BOOT)
    return box


def asked(box, order, seconds=60):
    """What an order prints, and its exit code where that is not 0; it is ended after so many seconds."""
    bounded = f"timeout -k 5 {seconds} bash -c {shlex.quote(order)} </dev/null; echo code $?"
    said, _, code = box.run(bounded, seconds + 60).rpartition("code ")
    said = said.strip("\n")
    return said if code.strip() == "0" else f"{said}\n(exit code {code.strip()})"


def released(bench):
    """Names of the units of a release of this version; nothing when none was built."""
    roots = list((bench.out / bench.version).resolve().glob("*.root-x86-64.*.raw"))
    if not roots:
        return None
    shown = bench.tool("dump.erofs", "--ls", f"--path={UNITS}", roots[0], see=[roots[0].parent])
    return set(re.findall(r"^ *\d+ +\d+ +(\S+)$", shown, re.MULTILINE))


def marked(table, units):
    """A table; the lines of services that are in no release say so."""
    if units is None:
        return table + "\n(no release was built to compare with)"
    lines = []
    for line in table.splitlines():
        name = line.split()[0] if line.strip() else ""
        strange = name.endswith(".service") and not {name, re.sub("@.*[.]", "@.", name)} & units
        lines.append(f"{line.rstrip()}  (not in a release)" if strange else line.rstrip())
    return "\n".join(lines)


def capabilities(box):
    """A line for each program that runs: what it may at this moment, and what it ever could."""
    shown = asked(box, f"grep -sE '^(({STATUS}):|0::)' /proc/[0-9]*/status /proc/[0-9]*/cgroup || true")
    found = {}
    for pid, key, value in re.findall(r"^/proc/(\d+)/\w+:(\w+):+[ \t]*(.*)$", shown, re.MULTILINE):
        found.setdefault(pid, {})[key] = value
    # Threads of the kernel have no memory; one that ended meanwhile has no unit.
    ran = [one for one in found.values() if {"VmSize", "CapEff", "CapBnd", "0"} <= one.keys()]
    masks = {one[key] for one in ran for key in ("CapEff", "CapBnd")}
    decoded = asked(box, f"for mask in {' '.join(sorted(masks))}; do capsh --decode=$mask; done")
    named = {mask: names.split(",") if names else []
             for mask, names in re.findall(r"^0x([0-9a-f]{16})=(.*)$", decoded, re.MULTILINE)}  # fmt: skip
    accounts = re.findall(r"^([^:]+):[^:]*:(\d+):", asked(box, "getent passwd"), re.MULTILINE)
    users = {number: name for name, number in accounts}

    def may(mask):
        has = named[mask]
        lacks = [name for name in named[found["1"]["CapBnd"]] if name not in has]
        if not has or not lacks:
            return "all" if has else "none"
        return f"all but {' '.join(lacks)}" if len(lacks) < len(has) else " ".join(has)

    rows = []
    for one in ran:
        unit = re.findall(r"[^/]+[.](?:service|scope)", one["0"])[-1:] or [one["0"]]
        number = one["Uid"].split()[0]
        rows.append((unit[0], one["Name"], users.get(number, number), one["NoNewPrivs"], one["Seccomp"],
                     may(one["CapEff"]), may(one["CapBnd"])))  # fmt: skip
    heads = ("UNIT", "PROGRAM", "USER", "NO NEW PRIVILEGES", "SECCOMP", "EFFECTIVE", "BOUNDING")
    rows = [heads, *sorted(rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def lynis(bench, box):
    """Its index, warnings and suggestions. What it prints, and its report, are files of their own."""
    (bench.work / "lynis.txt").write_text(asked(box, "lynis audit system --quick --no-colors", LYNIS))
    report = asked(box, "cat /var/log/lynis-report.dat")
    (bench.work / "lynis-report.dat").write_text(report)
    kinds = r"lynis_version|lynis_tests_done|hardening_index|warning\[\]|suggestion\[\]"
    lines = re.findall(rf"^(?:{kinds})=.*$", report, re.MULTILINE)
    expect(any(line.startswith("hardening_index") for line in lines), f"lynis did not end: see {bench.work}/lynis.txt")
    return "\n".join(sorted(lines, key=lambda line: ("[]" in line, line.startswith("suggestion"))))


def checked(bench, box):
    """What kernel-hardening-checker, on this machine, finds wrong with the kernel of the box."""
    texts = {
        "config": kernel_config(bench, box),
        "cmdline": asked(box, "cat /proc/cmdline"),
        # With what it says of keys that nobody can read.
        "sysctl": asked(box, "sysctl -a 2>&1 || true", 300),
    }
    order = [os.environ.get("CHECKER") or shutil.which("kernel-hardening-checker") or "kernel-hardening-checker"]
    order += ["--mode", "show_fail"]
    for name, text in texts.items():
        path = bench.work / f"kernel.{name}"
        path.write_text(text.strip() + "\n")
        order += [f"--{name}", str(path)]
    if not shutil.which(order[0]):
        return f"not on this machine (CHECKER); to be run where it is:\n{shlex.join(order)}"
    ran = subprocess.run(order, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return ran.stdout if ran.returncode == 0 else f"{ran.stdout}\n(exit code {ran.returncode})"


def kernel_config(bench, box):
    """What the kernel of the box was made with: of the package, since an image does not have it."""
    release, built = asked(box, "uname -r"), asked(box, "uname -v")
    packages = (bench.out.parent / "packages/cache/apt/archives").resolve()
    found = packages.glob(f"linux-image-{release}_*.deb")
    package = next((path for path in found if f" {path.name.split('_')[1]} " in built), None)
    expect(package, f"the package of kernel {release}, {built}, is not in {packages}")
    order = f"dpkg-deb --fsys-tarfile {shlex.quote(str(package))} | tar -xO ./boot/config-{release}"
    return bench.tool("sh", "-c", order, see=[packages])


def main():
    tree, out, work, version = sys.argv[1:]
    Path(work).mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bench = DebugBench(tree, out, work, version, Bases(), 0, name="measure", place=Place(Places(1), 0))
    path = bench.work / "measured.txt"
    failed = True
    try:
        expect(bench.image().exists(), f"there is no {bench.image()}: PROFILE=debug image/tools/build makes it")
        measure(bench, Report(path))
        failed = False
    except (Failed, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"FAILED: {error or repr(error)}")
    finally:
        bench.end(failed=failed)
        Machine.kill_all()
    bench.say(f"written to {path}")


if __name__ == "__main__":
    main()
