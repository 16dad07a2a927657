import assert from "node:assert/strict";
import { test } from "node:test";

import { plan } from "./policy.js";

const NODE = { region: 1, capacityBytes: 250, windowBytes: 250, windowSeconds: 3600, seed: 0 };

/** 100 bytes, asked for so often in an hour, in thousandths. */
function item(demandNear) {
  return {
    sizeBytes: 100,
    demandNear,
    demandFar: 0,
    copiesNear: 0,
    copiesFar: 0,
    held: 0,
    listedSeconds: 0,
    ageSeconds: 0,
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

test("the most wanted come until the node is full", () => {
  assert.deepEqual(rows(plan(NODE, [item(2000), item(9000), item(3000)], node())), [1, 2]);
});

test("what takes longer than the window waits", () => {
  const narrow = { ...NODE, windowBytes: 150 };
  const here = { ...item(5000), held: 1000 };
  assert.deepEqual(rows(plan(narrow, [item(9000), item(8000), here], node())), [0, 2]);
});

test("the list stays when nothing is wanted", () => {
  const host = node();
  assert.deepEqual(plan(NODE, [item(999)], host), { tag: "abstain" });
  assert.deepEqual(host.counted, [[0, 1]]);
});
