"""A control node on this machine, for boxes that are to be nodes of its fleet."""

import json
import os
import shutil
import subprocess
import time

from bench import CONFIG, expect
from machine import Failed, Machine, free_port
from watching import skerry

# What a control node hands out with a token: the name comes with the certificate.
OWN = CONFIG.replace('name = "box-under-test"\n', "")
MEMBER = OWN.replace("[update]\n", '[update]\nring = "early"\n') + """
[admin]
tls_listen = ["0.0.0.0:9443"]
[[registry.links]]
name = "north"
url = "http://10.0.2.15"
"""
ID = "edge-7"
HOST = "10.0.2.100"
CONTROL = """
[node]
name = "control-1"
data_dir = "{folder}/data"
[public]
listen = ["127.0.0.1:0"]
tls_listen = ["127.0.0.1:{tls}"]
tls_certificate_file = "{folder}/ca/node.pem"
tls_key_file = "{folder}/ca/node.key"
tls_client_ca_file = "{folder}/ca/ca.pem"
[admin]
listen = "127.0.0.1:{admin}"
[registry]
control = true
ca_file = "{folder}/ca/ca.pem"
ca_key_file = "{folder}/ca/ca.key"
certificate_file = "{folder}/ca/node.pem"
[sites.default]
origin = "http://127.0.0.1:{origin}"
"""


class Control:
    """A control node on this machine."""

    def __init__(self, bench):
        self.folder = bench.work / f"{bench.name}-control"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        tls, self.admin = free_port(), free_port()
        # Where a box finds it: its port, and ours.
        self.reach = {8443: tls}
        self.member = self.folder / "edge-7.toml"
        self.member.write_text(MEMBER)
        # What a disk may be given beside a token: nothing in it needs a certificate yet.
        self.own = self.folder / "own.toml"
        self.own.write_text(OWN)
        skerry("node", "ca-init", self.folder / "ca", "--control", "control-1", "--name", HOST)
        config = CONTROL.format(folder=self.folder, tls=tls, admin=self.admin, origin=bench.origin.port)
        (self.folder / "skerry.toml").write_text(config)
        self.start()

    def start(self):
        served = self.folder / "data/listeners.json"
        served.unlink(missing_ok=True)
        with open(self.folder / "log", "ab") as log:
            program = os.environ.get("SKERRY_BIN", "skerry")
            self.process = subprocess.Popen([program, "run", "--config", self.folder / "skerry.toml"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
        Machine.running.add(self.process)
        self.until("it serves", served.exists)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        Machine.running.discard(self.process)

    def until(self, what, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                raise Failed(f"control node: {what}: not so; see {self.folder}/log")
            time.sleep(0.5)

    def ask(self, *arguments):
        """What a command prints that asks this node."""
        return skerry("node", *arguments, "--node", f"http://127.0.0.1:{self.admin}")

    def token(self):
        """A token for the box, as `skerry image provision` is told of it."""
        said = self.ask("token", ID, "--region", "north", "--valid", "24h", "--config", self.member)
        path = self.folder / "token"
        path.write_text(said.splitlines()[0] + "\n")
        return ["--token", path, "--fleet-url", f"https://{HOST}:8443", "--fleet-ca", said.split()[-1]]

    def listed(self):
        """What it knows of the box."""
        nodes = json.loads(self.ask("list", "--json"))["nodes"]
        return next((one for one in nodes if one["node"]["id"] == ID), {"standing": "none"})

    def until_silent(self):
        self.until("the box is not heard any more", lambda: self.listed()["standing"] != "live")

    def hears(self, box, version):
        """Waits until it hears the box, and that alone has the id."""
        box.until("the control node hears it", lambda: self.listed()["standing"] == "live", 120)
        told = self.listed()
        expect(not told.get("rival"), f"two machines have one id: {told}")
        node = told["node"]
        expect((node["region"], node["image"]) == ("north", version), f"the control node knows of it: {node}")
        expect([link["name"] for link in node["links"]] == ["north"], f"its links are {node['links']}")

    def sees(self, box, version):
        """Waits until the fleet's versions tell of this one in the box's ring; the box tells the same, from afar, to
        whoever has an operator's certificate."""
        def counted():
            rows = (line.split() for line in self.status().splitlines())
            return any(row[:2] == ["early", version] and row[-2:] == ["1", "1"] for row in rows)

        box.until("the control node counts its version", counted, 60)
        desk, authority = self.folder / "desk", self.folder / "ca"
        if not desk.exists():
            skerry("admin", "certificate", "operator", "--authority", authority, "--dir", desk)
        said = self.status(
            f"https://127.0.0.1:{box.port[9443]}", "--node-name", ID, "--ca", authority / "ca.pem",
            "--certificate", desk / "operator.pem", "--key", desk / "operator.key",
        )  # fmt: skip
        expect(f"image {version}" in said and "ring early" in said, f"from afar it says:\n{said}")

    def status(self, node=None, *how):
        return skerry("status", "--node", node or f"http://127.0.0.1:{self.admin}", *how)
