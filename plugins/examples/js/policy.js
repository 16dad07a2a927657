// Among the links that are near enough, the one whose operator is cheapest.
//
// 1. Links that are down, that fail their checks now and then, or that are nine tenths full are not
//    named. When no other is left, the policy has no opinion.
// 2. A viewer does not feel 15 ms: links at most so much further than the nearest are alike. Among
//    them the price of the link's operator decides, by the node's table `price`: what a megabit per
//    second costs, by the number of the autonomous system. Who is not in it costs 100, and is counted.
// 3. Of those that cost the same the first is drawn by the request's seed, each as often as it has
//    capacity free: always taking the emptiest would send everybody to the same link until the next
//    report of its load.
// 4. Links that are further away follow, nearest first.

// The most links that are named.
const MOST_NAMED = 8;
// Links below this health, in permille, fail their checks now and then.
const FAILING = 500;
// What is not felt, in microseconds.
const ALIKE_US = 15_000;
// What a megabit per second costs of an operator that nobody has given a price.
const USUAL_PRICE = 100;
// Place of `price` among the tables of the manifest.
const PRICE = 0;
// Place of `price-unknown` among the counters of the manifest.
const PRICE_UNKNOWN = 0;
// The largest weight of the contract.
const MOST_WEIGHT = 1_000_000;

export function route(request, candidates, host) {
  const fit = candidates
    .map((link, row) => ({ ...link, row, freeKbps: link.capacityKbps - link.usedKbps }))
    .filter((link) => link.health >= FAILING && link.usedKbps * 10 < link.capacityKbps * 9);
  if (fit.length === 0) {
    return { tag: "abstain" };
  }
  fit.sort((a, b) => a.distanceUs - b.distanceUs);

  const limit = fit[0].distanceUs + ALIKE_US;
  const near = fit.filter((link) => link.distanceUs <= limit);
  const far = fit.slice(near.length);

  const prices = pricesOf(near, host);
  near.sort((a, b) => prices.get(a.isp) - prices.get(b.isp));
  const cheapest = near.filter((link) => prices.get(link.isp) === prices.get(near[0].isp));
  const first = draw(request.seed, cheapest);
  const order = [first, ...near.filter((link) => link !== first), ...far];
  return { tag: "ranked", val: order.slice(0, MOST_NAMED).map(choice) };
}

/** What each operator of these links costs, asked once for each. */
function pricesOf(links, host) {
  const prices = new Map();
  for (const { isp } of links) {
    if (!prices.has(isp)) {
      const price = host.lookup(PRICE, isp);
      if (price === null) {
        host.count(PRICE_UNKNOWN, 1);
      }
      prices.set(isp, price ?? USUAL_PRICE);
    }
  }
  return prices;
}

/** One of the links, each as often as it has capacity free. */
function draw(seed, links) {
  const all = links.reduce((sum, link) => sum + link.freeKbps, 0);
  // The upper half of the seed: of 64 bits a number keeps 53.
  let left = (Math.floor(seed / 2 ** 32) / 2 ** 32) * all;
  return links.find((link) => (left -= link.freeKbps) < 0) ?? links[0];
}

/** A link as the node wants it named: its weight is the free capacity in megabits per second. */
function choice({ row, freeKbps }) {
  const mbps = Math.floor(freeKbps / 1000);
  return { row, weight: Math.min(Math.max(mbps, 1), MOST_WEIGHT) };
}
