// Whom a peer downloads from, and whether more copies are needed. What each field means, and what a
// node does with each verdict, stands in wit/super-peer-scheduler.wit; names with hyphens are in camel
// case here (superPeer).

// Peers below this health, in permille, fail their checks now and then.
const FAILING = 500;
// Place of `no-super-peer` among the counters of the manifest.
const NO_SUPER_PEER = 0;

export function schedulePeers(request, candidates, host) {
  const peers = candidates.map((peer, row) => ({ peer, row }));
  const fit = peers.filter(({ peer }) => isFit(request, peer));
  // Super-peers, then the region, then the nearest.
  fit.sort(
    (a, b) =>
      b.peer.superPeer - a.peer.superPeer ||
      isNear(request, b.peer) - isNear(request, a.peer) ||
      a.peer.distanceUs - b.peer.distanceUs,
  );
  const lacking = request.downloading > 0 && fit.every(({ peer }) => peer.superPeer === 0);
  if (lacking) {
    host.count(NO_SUPER_PEER, 1);
  }
  const named = fit.slice(0, request.wanted).map(({ row }) => ({ row, weight: 1 }));
  if (named.length === 0 && !lacking) {
    // A policy without an opinion leaves the verdict to the node.
    return { tag: "abstain" };
  }
  return { tag: "scheduled", val: { peers: named, moreCopies: lacking ? 1 : 0 } };
}

/** Whether somebody is well and has what the peer lacks; a super-peer also has room. */
function isFit(request, peer) {
  const room = peer.usedKbps * 10 < peer.capacityKbps * 9;
  return peer.health >= FAILING && peer.held > request.have && (peer.superPeer === 0 || room);
}

/** Whether somebody is in the region of the peer that asks. */
function isNear(request, peer) {
  return request.region !== 0 && peer.region === request.region;
}
