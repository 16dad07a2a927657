import assert from "node:assert/strict";
import { test } from "node:test";

import { route } from "./policy.js";

const CLIENT = { client: 7, region: 1, isp: 0, resourceHash: 0, sizeBytes: 0, seed: 0 };

/** A link of an operator that is well and empty. */
function link(isp, distanceUs, usedKbps = 0) {
  return {
    node: 0,
    region: 1,
    isp,
    distanceUs,
    usedKbps,
    capacityKbps: 1_000_000,
    health: 1000,
    held: 0,
    chosenMsAgo: 0,
  };
}

/** The node's part: its prices, and what was counted. */
function node(prices = {}) {
  const counted = [];
  return {
    counted,
    count: (counter, by) => counted.push([counter, by]),
    lookup: (table, key) => (table === 0 ? (prices[key] ?? null) : null),
  };
}

/** The rows of a verdict. */
function rows(verdict) {
  return verdict.val.map(({ row }) => row);
}

test("among near links the cheapest operator comes first", () => {
  const links = [link(64500, 5000), link(64501, 20_000), link(64502, 9000)];
  const host = node({ 64500: 90, 64501: 20, 64502: 60 });
  assert.deepEqual(rows(route(CLIENT, links, host)), [1, 2, 0]);
  assert.deepEqual(host.counted, []);
});

test("a cheap link that is felt to be further away is not taken", () => {
  const links = [link(64501, 20_001), link(64500, 5000)];
  assert.deepEqual(rows(route(CLIENT, links, node({ 64500: 90, 64501: 20 }))), [1, 0]);
});

test("an operator without a price costs the usual, and is counted", () => {
  const links = [link(64500, 5000), link(64501, 5000)];
  const host = node({ 64500: 101 });
  assert.deepEqual(rows(route(CLIENT, links, host)), [1, 0]);
  assert.deepEqual(host.counted, [[0, 1]]);
});

test("of the same price each is first as often as it has capacity free", () => {
  const links = [link(64500, 5000, 750_000), link(64500, 5000, 250_000)];
  const counts = [0, 0];
  for (let draw = 0; draw < 1000; draw++) {
    const request = { ...CLIENT, seed: (draw / 1000) * 2 ** 64 };
    counts[rows(route(request, links, node()))[0]]++;
  }
  assert.deepEqual(counts, [250, 750]);
});

test("every seed draws a link", () => {
  const links = [link(64500, 5000), link(64500, 6000)];
  for (const seed of [0, 1, 2 ** 32 - 1, 2 ** 53, 2 ** 63, 2 ** 64]) {
    assert.equal(route({ ...CLIENT, seed }, links, node()).val.length, 2);
  }
});

test("weights are free megabits per second", () => {
  const verdict = route(CLIENT, [link(64500, 5000, 400_000)], node());
  assert.deepEqual(verdict.val, [{ row: 0, weight: 600 }]);
});

test("without a fit link there is no opinion", () => {
  const links = [link(64500, 5000, 900_000), { ...link(64500, 5000), health: 499 }];
  assert.deepEqual(route(CLIENT, links, node()), { tag: "abstain" });
});
