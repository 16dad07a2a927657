import assert from "node:assert/strict";
import { test } from "node:test";

import { schedulePeers } from "./policy.js";

const PEER = {
  client: 7,
  region: 1,
  isp: 0,
  sizeBytes: 0,
  have: 200,
  wanted: 10,
  downloading: 5,
  demandKbps: 0,
  seed: 0,
};

function peer(region) {
  return {
    superPeer: 0,
    region,
    isp: 0,
    distanceUs: 0,
    usedKbps: 0,
    capacityKbps: 0,
    health: 1000,
    held: 500,
    namedMsAgo: 0,
  };
}

function superPeer(region) {
  return { ...peer(region), superPeer: 1, capacityKbps: 1_000_000 };
}

/** The node's part, and what was counted. */
function node() {
  const counted = [];
  return { counted, count: (counter, by) => counted.push([counter, by]) };
}

/** The rows of a verdict. */
function rows(verdict) {
  return verdict.val.peers.map(({ row }) => row);
}

test("super-peers come first, then the region", () => {
  const verdict = schedulePeers(PEER, [peer(1), superPeer(2), superPeer(1)], node());
  assert.deepEqual(rows(verdict), [2, 1, 0]);
  assert.equal(verdict.val.moreCopies, 0);
});

test("a swarm without a super-peer asks for one", () => {
  const host = node();
  const verdict = schedulePeers(PEER, [peer(1)], host);
  assert.deepEqual(rows(verdict), [0]);
  assert.equal(verdict.val.moreCopies, 1);
  assert.deepEqual(host.counted, [[0, 1]]);
});

test("who has no more than the peer is not named", () => {
  const verdict = schedulePeers({ ...PEER, downloading: 0 }, [{ ...peer(1), held: 200 }], node());
  assert.deepEqual(verdict, { tag: "abstain" });
});
