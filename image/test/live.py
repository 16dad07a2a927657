"""A live system, from which an operator flashes the disk of a box: the image's own kernel, with a shell."""

import os
import shutil
import stat
import struct
from pathlib import Path

from bench import expect
from machine import Failed

# A live system: the image's kernel and initrd, with a shell in place of what the initrd does.
LIVE = """#!/live/busybox sh
export PATH=/live/bin:/usr/sbin:/usr/bin
/live/busybox mkdir -p /live/bin /mnt /tmp
/live/busybox mount -t proc proc /proc
/live/busybox --install -s /live/bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in virtio_blk xhci_pci usb_storage sd_mod vfat; do /usr/sbin/modprobe $module; done
until [ -b /dev/vda ] && [ -b /dev/sda ]; do sleep 1; done
mount -t vfat -o ro /dev/vda /mnt
exec </dev/hvc0 >/dev/hvc0 2>&1
echo 'the live system is up' >/dev/ttyS0
exec sh
"""
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def tried(live, order, seconds=120, *, code=0, answer=""):
    """What an order prints in the live system, where it must end with that code."""
    said, _, ended = live.run(f"{order}; echo code $?", seconds, answer=answer).rpartition("code ")
    expect(int(ended) == code, f"{order} ended with code {ended}, not {code}:\n{said[-2000:]}")
    return said


def live_system(bench):
    """Kernel and initrd, as files."""
    (unified,) = bench.image().parent.glob("*.efi")
    unified, tree = unified.read_bytes(), Path(bench.tree)
    kernel, initrd, program = (bench.work / f"live-{name}" for name in ("kernel", "initrd", "skerry"))
    bench.sticks += [kernel, initrd, program]
    built = Path(shutil.which(os.environ.get("SKERRY_BIN", "skerry")) or "skerry").resolve()
    bench.tool("strip", "--strip-all", "-o", program, built, see=[built.parent])
    files = {
        "live/init": LIVE.encode(),
        "live/busybox": (tree / "usr/bin/busybox").read_bytes(),
        "usr/bin/skerry": program.read_bytes(),
        f"{LIBRARIES}/libstdc++.so.6": (tree / LIBRARIES / "libstdc++.so.6").read_bytes(),
    }
    kernel.write_bytes(section(unified, b".linux"))
    initrd.write_bytes(padded(section(unified, b".initrd")) + archive("live", files))
    return kernel, initrd


def section(unified, name):
    """One section of a unified kernel image (PE/COFF, §3 and §4)."""
    (head,) = struct.unpack_from("<I", unified, 0x3C)
    count, optional = struct.unpack_from("<2xH12xH", unified, head + 4)
    for place in range(count):
        title, length, _, _, at = struct.unpack_from("<8s4I", unified, head + 24 + optional + 40 * place)
        if title.rstrip(b"\0") == name:
            return unified[at : at + length]
    raise Failed(f"the kernel image has no {name.decode()}")


def archive(folder, files):
    """A cpio archive as the kernel unpacks it (newc): a folder, and programs by their paths."""
    entries = [(folder, stat.S_IFDIR | 0o755, b"")]
    entries += [(path, stat.S_IFREG | 0o755, content) for path, content in files.items()]
    parts = []
    for place, (path, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        name = path.encode() + b"\0"
        # Number, mode, user, group, links, time, length, four of devices, length of the name, no checksum.
        numbers = (place, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers)
        parts += [padded(head + name), padded(content)]
    return b"".join(parts)


def padded(content):
    return content + b"\0" * (-len(content) % 4)
