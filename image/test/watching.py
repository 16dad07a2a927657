"""A box as others see it: who may read its metrics, what its policies decide, which ports answer, what its serial line
takes."""

import json
import os
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

from bench import CONFIG, TOKEN, TOKEN_CREDENTIAL, WATCHED, admin, expect, get, kept, last_screen, metric
from machine import MACS, Failed
from neighbour import BOX, BOX6, BOX_TAGGED, CARD, FAR, USUAL_UDP, VLAN, Neighbour

CLONE = Path(__file__).resolve().parent.parent.parent
# What the rows of a world are called in a question.
WORLDS = {"region-router": "candidates", "preload-planner": "items", "super-peer-scheduler": "candidates"}
# The flood limit would make hours of a scan from one address; every other rule stays.
OPEN = '[network]\nmax_connections_per_second = 20000\n'
UPLINKS = f"""
[[registry.links]]
name = "north"
url = "http://10.0.2.15"
[[registry.links]]
name = "south"
url = "http://{BOX}"
[network]
dns = ["192.0.2.1"]
ntp = ["time.example"]
[[network.interfaces]]
mac = "{MACS[0]}"
link = "north"
addresses = ["10.0.2.15/24"]
gateway = "10.0.2.2"
[[network.interfaces]]
mac = "{MACS[1]}"
link = "south"
addresses = ["{BOX}/24"]
gateway = "192.0.2.1"
"""


def skerry(*arguments):
    """What the node's program prints on this machine."""
    ran = subprocess.run([os.environ.get("SKERRY_BIN", "skerry"), *map(str, arguments)], cwd=CLONE, capture_output=True,
                         text=True)  # fmt: skip
    if ran.returncode:
        raise Failed(f"skerry {' '.join(map(str, arguments[:3]))}: {ran.stderr.strip()[-1000:]}")
    return ran.stdout


def from_outside(bench):
    """Metrics are for who has the token; policies are taken, decide and are counted; only the configured ports answer;
    the serial line takes no orders."""
    key = bench.work / "author.key"
    for path in (key, key.with_suffix(".pub")):
        path.unlink(missing_ok=True)
    author = skerry("policy", "keygen", "--out", key).split()[-1]
    both = CONFIG.replace('["0.0.0.0:80"]', '["0.0.0.0:80", "[::]:80"]')
    # Calls are late now and then in an emulator; the policies must rest only when they fail.
    policy = f'[policy.signers]\nauthor = "{author}"\n[policy.breaker]\nfailures = 1000\n'
    box = bench.copy(bench.provisioned(), "outside")
    neighbour = Neighbour(box.folder)
    config = both + WATCHED + policy + OPEN + CARD + VLAN
    bench.start(box, config, credentials=TOKEN_CREDENTIAL, wire=neighbour, typed=True)
    bench.ready(box)
    box.until("its addresses", lambda: {BOX, BOX6, BOX_TAGGED} <= set(last_screen(box).split()), 60)
    kept(bench, box)
    metrics(bench, box)
    for world in WORLDS:
        policy_decides(bench, box, world, key)
    ports(bench, neighbour)
    serial_line(bench, box)
    box.kill()
    neighbour.close()


def metrics(bench, box):
    for token in ("", "another one"):
        for path in ("/metrics", "/status", "/policy"):
            status = admin(box, path, token=token)[0]
            expect(status == 401, f"{path} answers {status} without the token")
    hit = {"method": "GET", "result": "hit", "status": "2xx"}
    before = metric(box, "skerry_cache_requests_total", **hit)
    get(box)
    box.until("a hit is counted", lambda: metric(box, "skerry_cache_requests_total", **hit) == before + 1, 10)
    expect(metric(box, "skerry_box_image_info", image="skerry", version=bench.version) == 1, "the image is not told")
    expect(metric(box, "skerry_box_rolled_back") == 0, "it says that it came back from another version")
    expect(metric(box, "skerry_box_wrong") == 0, "it says that something is wrong")
    bench.done("metrics: 401 without the token; a hit is counted; image and state are told")


def policy_decides(bench, box, world, key):
    """The default policy of a world, as an operator brings it: built, signed, pushed, promoted."""
    skerry("policy", "build", CLONE / "plugins" / world)
    package = bench.work / f"{world}.policy.wasm"
    shutil.move(CLONE / "plugins" / world / package.name, package)
    skerry("policy", "sign", package, "--key", key)
    token = bench.work / "token"
    token.write_text(TOKEN)
    node = ["--node", f"http://127.0.0.1:{box.port[9180]}", "--token-file", token]
    said = skerry("policy", "push", package, *node)
    expect("begins in shadow" in said, f"a policy that is pushed: {said}")
    # shadow, canary-1, canary-10, all
    for _ in range(4):
        skerry("policy", "promote", world, *node)
    vector = tomllib.loads((CLONE / "plugins" / world / "manifest.toml").read_text())["vectors"][0]
    question = {"inputs": {world: {"request": vector["request"], WORLDS[world]: vector["rows"]}}, "client": 1}
    causes = []
    end = time.monotonic() + 60
    while time.monotonic() < end:
        status, _, answer = admin(box, "/policy/decide", json.dumps(question).encode())
        expect(status == 200, f"a decision of {world}: {status} {answer[:300]}")
        decided = json.loads(answer)
        if decided["policy"]:
            break
        causes.append(decided["cause"])
        time.sleep(1)
    else:
        raise Failed(f"{world} does not decide: {causes}")
    expect(decided["policy"]["name"] == world, f"{world} is decided by {decided['policy']}")
    worlds = json.loads(admin(box, "/status")[2])["policy"]["worlds"]
    slot = next(slot for slot in worlds if slot["world"] == world)
    expect(slot["decides"]["name"] == world, f"the status tells of {world}: {slot}")
    expect(metric(box, "skerry_policy_decisions_total", world=world, by="policy") >= 1, f"{world} is not counted")
    bench.done(f"{world}: compiled on the box, decides and is counted" + (f", after {causes}" if causes else ""))


def ports(bench, neighbour):
    for box, configured in ((BOX, {80, 9180}), (BOX6, {80})):
        neighbour.reaches(box)
        opened, refused = neighbour.tcp(box, range(1, 65_536))
        expect(opened == configured, f"{box}: TCP ports {sorted(opened)} take connections, not {sorted(configured)}")
        expect(not refused, f"{box}: the firewall says that there are TCP ports {sorted(refused)[:20]}")
        answered = neighbour.udp(box, USUAL_UDP)
        expect(not answered, f"{box}: UDP ports {sorted(answered)} answer")
        bench.done(f"{box}: TCP {sorted(opened)} of 65535, UDP none of {len(USUAL_UDP)}")
    neighbour.reaches(BOX_TAGGED)
    opened, _ = neighbour.tcp(BOX_TAGGED, [22, 53, 80, 443, 9180])
    expect(opened == {80, 9180}, f"on the VLAN: TCP ports {sorted(opened)} take connections")
    bench.done(f"{BOX_TAGGED}, in frames with the tag of its VLAN: TCP {sorted(opened)}")


def serial_line(bench, box):
    """Nobody reads what is typed, and the kernel takes no orders either."""
    expect("login:" not in box.said(), "the console asks who is there")
    before = len(box.said())
    # Enter, ctrl-c, ctrl-d, ctrl-z; a name; something that a shell would answer.
    box.type(b"\r\r\x03\x04\x1a\r")
    box.type(b"root\r")
    box.type(b"\recho $((6*7))skerry\r")
    # SysRq: help, and a reboot at once.
    for order in (b"h", b"b"):
        box.type(order, breaks=True)
    time.sleep(10)
    said = box.said()[before:]
    for words in ("login", "assword", "42skerry", "sysrq", "SysRq", "EFI stub"):
        expect(words not in said, f"the serial line says {words!r} to what was typed:\n{said[-500:]}")
    kept(bench, box)
    bench.done("the serial line: no login, no shell, no SysRq")


def two_uplinks(bench):
    """Of two uplinks each answers who came by it, from afar too. What the box begins leaves by the second one only when
    the cable of the first is pulled. Names are asked of the configured server."""
    box = bench.copy(bench.provisioned(), "uplinks")
    neighbour = Neighbour(box.folder)
    bench.start(box, CONFIG + UPLINKS, wire=neighbour)
    bench.ready(box)
    box.until("its addresses", lambda: {"10.0.2.15", BOX} <= set(last_screen(box).split()), 60)
    box.until("it has asked for a name", lambda: neighbour.asked_names, 120)
    expect(neighbour.asked_names == {"time.example"}, f"names were asked for: {neighbour.asked_names}")
    kept(bench, box)
    neighbour.reaches(BOX)
    expect(neighbour.tcp(BOX, [80], client=FAR) == ({80}, set()), "who comes by the second line is not answered on it")
    expect(not neighbour.asked_time, "the time is asked for on the second line")
    bench.done("both lines answer; the time is not asked for on the second")
    box.order("set_link", name="net", up=False)
    box.until("the time is asked for on the second line", lambda: neighbour.asked_time, 300)
    expect(neighbour.tcp(BOX, [80], client=FAR) == ({80}, set()), "the second line does not answer alone")
    bench.done("a cable pulled: the other line is enough")
    box.order("set_link", name="net", up=True)
    box.until("the first line answers", lambda: get(box, timeout=3)[2] == bench.origin.body, 120)
    bench.done("and plugged in again: both lines answer")
    box.kill()
    neighbour.close()
