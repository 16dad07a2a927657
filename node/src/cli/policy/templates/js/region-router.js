// Which links a client is sent to. What each field means, and what a node does with each verdict,
// stands in wit/region-router.wit; names with hyphens are in camel case here (distanceUs).

// The most links that are named.
const MOST_NAMED = 8;
// Links below this health, in permille, fail their checks now and then.
const FAILING = 500;
// Place of `nobody-fit` among the counters of the manifest.
const NOBODY_FIT = 0;

export function route(request, candidates, host) {
  const links = candidates.map((link, row) => ({ link, row }));
  const fit = links.filter(({ link }) => isFit(link));
  if (fit.length === 0) {
    // A policy without an opinion leaves the verdict to the node.
    host.count(NOBODY_FIT, 1);
    return { tag: "abstain" };
  }
  // The region, then the nearest.
  fit.sort(
    (a, b) =>
      isNear(request, b.link) - isNear(request, a.link) || a.link.distanceUs - b.link.distanceUs,
  );
  return { tag: "ranked", val: fit.slice(0, MOST_NAMED).map(({ row }) => ({ row, weight: 1 })) };
}

/** Whether a link is well, and less than nine tenths full. */
function isFit(link) {
  return link.health >= FAILING && link.usedKbps * 10 < link.capacityKbps * 9;
}

/** Whether a link is in the client's region. */
function isNear(request, link) {
  return request.region !== 0 && link.region === request.region;
}
