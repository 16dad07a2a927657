import assert from "node:assert/strict";
import { test } from "node:test";

import { route } from "./policy.js";

const CLIENT = { client: 7, region: 1, isp: 0, resourceHash: 0, sizeBytes: 0, seed: 0 };

/** A link that is well and empty. */
function link(region, distanceUs) {
  return {
    node: 0,
    region,
    isp: 0,
    distanceUs,
    usedKbps: 0,
    capacityKbps: 1_000_000,
    health: 1000,
    held: 0,
    chosenMsAgo: 0,
  };
}

/** The node's part, and what was counted. */
function node() {
  const counted = [];
  return { counted, count: (counter, by) => counted.push([counter, by]) };
}

/** The rows of a verdict. */
function rows(verdict) {
  return verdict.val.map(({ row }) => row);
}

test("the region comes first, then the nearest", () => {
  const links = [link(2, 900), link(1, 8000), link(1, 5000)];
  assert.deepEqual(rows(route(CLIENT, links, node())), [2, 1, 0]);
});

test("a full link is not named", () => {
  const full = { ...link(1, 900), usedKbps: 900_000 };
  assert.deepEqual(rows(route(CLIENT, [full, link(2, 9000)], node())), [1]);
});

test("the node decides and counts when nobody is fit", () => {
  const host = node();
  assert.deepEqual(route(CLIENT, [{ ...link(1, 900), health: 0 }], host), { tag: "abstain" });
  assert.deepEqual(host.counted, [[0, 1]]);
});
