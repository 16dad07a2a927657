// What a node should hold before anybody asks for it. What each field means, and what a node does
// with each verdict, stands in wit/preload-planner.wit; names with hyphens are in camel case here
// (sizeBytes).

// Requests an hour, in thousandths, from which on a copy is worth its place.
const WORTH = 1000;
// Place of `nothing-wanted` among the counters of the manifest.
const NOTHING_WANTED = 0;

export function plan(request, items, host) {
  const rows = items.map((item, row) => ({ item, row }));
  const wanted = rows.filter(({ item }) => item.demandNear >= WORTH);
  wanted.sort((a, b) => b.item.demandNear - a.item.demandNear);

  let room = request.capacityBytes;
  let window = request.windowBytes;
  const list = [];
  for (const { item, row } of wanted) {
    // What is here in part stays, and is filled when there is time.
    const moved = item.held > 0 ? 0 : item.sizeBytes;
    if (item.sizeBytes <= room && moved <= window) {
      room -= item.sizeBytes;
      window -= moved;
      list.push({ row, weight: 1 });
    }
  }
  if (list.length === 0) {
    // Without an opinion the node's list stays as it is; an empty list would empty it.
    host.count(NOTHING_WANTED, 1);
    return { tag: "abstain" };
  }
  return { tag: "ranked", val: list };
}
