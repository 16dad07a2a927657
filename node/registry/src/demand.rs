//! What is asked for, and where: counts of requests per resource and region that halve every day.
//!
//! A count is kept as the logarithm of what it will be worth: adding to it and comparing two of them
//! need no clock, and nothing has to be decayed one by one. Past requests that came at a steady rate
//! of r per hour are worth r * 24 / ln 2, so a count tells the rate. The table is bounded; when it is
//! full the eighth that is worth least goes. So are the regions, which nodes may name as they like: when there are
//! too many those go that no node stands in any more.

use std::collections::{BTreeSet, HashMap, HashSet};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

/// Bytes of a resource's id.
pub type Resource = [u8; 32];

/// Counts that are kept by default.
pub const MOST_COUNTS: usize = 1 << 18;
/// Locks that they are spread over.
const SHARDS: usize = 16;
/// Regions that are told apart; requests of further ones count for the unknown region.
const MOST_REGIONS: usize = 1024;
/// Regions are looked through so often, at most, milliseconds.
const REGIONS_MS: u64 = 60_000;
/// Part of a full shard that goes, one in so many.
const EVICTED: usize = 8;
/// A count's half-life.
const DAY_MS: f64 = 86_400_000.0;
/// From a count to requests per hour.
const PER_HOUR: f64 = std::f64::consts::LN_2 / 24.0;

/// Names of regions by number; number 0 is the unknown one, without a name. Held while a number of it is put to
/// use, so that it does not come to stand for another region meanwhile.
struct Regions {
    names: Vec<String>,
    numbers: HashMap<String, u16>,
    /// Numbers that had a name before.
    free: Vec<u16>,
    /// When they may be looked through again, milliseconds since 1970.
    next_ms: u64,
}

impl Regions {
    /// Number of a region: a new one when there was none, as long as there are any.
    fn take(&mut self, region: &str) -> u16 {
        if let Some(number) = self.numbers.get(region) {
            return *number;
        }
        let next = self.free.pop().or_else(|| {
            let next = u16::try_from(self.names.len()).ok();
            next.filter(|_| self.names.len() < MOST_REGIONS)
        });
        let Some(number) = next else { return 0 };
        let place = usize::from(number);
        self.names.resize(self.names.len().max(place + 1), String::new());
        region.clone_into(&mut self.names[place]);
        self.numbers.insert(region.to_owned(), number);
        number
    }

    fn is_full(&self) -> bool {
        self.free.is_empty() && self.names.len() >= MOST_REGIONS
    }
}

#[derive(Default)]
struct Shard {
    /// Base-2 logarithm of what a count is worth, and days since 1970 on top.
    levels: HashMap<(Resource, u16), f64>,
    /// First bytes of resources whose counts changed since they were last kept.
    changed: BTreeSet<u8>,
}

/// A part of the table as it is kept: resources that begin with one byte. After it stands when it was written,
/// milliseconds since 1970.
#[derive(Default, Serialize, Deserialize)]
struct Page {
    regions: Vec<String>,
    rows: Vec<(Resource, u16, f64)>,
}

/// Decayed counts of requests.
pub struct Demand {
    shards: Vec<Mutex<Shard>>,
    /// Counts of one shard, at most.
    each: usize,
    regions: RwLock<Regions>,
}

impl Demand {
    /// An empty table of at most so many counts.
    pub fn new(most: usize) -> Self {
        let regions = Regions {
            names: vec![String::new()],
            numbers: HashMap::from([(String::new(), 0)]),
            free: Vec::new(),
            next_ms: 0,
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            each: (most / SHARDS).max(EVICTED),
            regions: RwLock::new(regions),
        }
    }

    /// Counts requests for a resource from a region; empty is an unknown one.
    pub fn count(&self, resource: &Resource, region: &str, requests: u32, now_ms: u64) {
        if requests > 0 {
            let level = f64::from(requests).log2() + days(now_ms);
            self.with_number(region, |number| self.add(resource, number, level));
        }
    }

    /// Whether there are so many regions that requests from this one would count for the unknown one, and it
    /// is worth [looking through them](Self::keep_regions).
    pub(crate) fn lacks(&self, region: &str, now_ms: u64) -> bool {
        let regions = self.regions.read();
        regions.is_full() && !regions.numbers.contains_key(region) && now_ms >= regions.next_ms
    }

    /// Forgets all regions but these, and what was counted for them.
    pub(crate) fn keep_regions(&self, is_known: impl Fn(&str) -> bool, now_ms: u64) {
        let mut regions = self.regions.write();
        regions.next_ms = now_ms.saturating_add(REGIONS_MS);
        let gone = regions.numbers.iter().filter(|(name, number)| **number > 0 && !is_known(name));
        let gone: HashSet<u16> = gone.map(|(_, number)| *number).collect();
        for shard in &self.shards {
            let Shard { levels, changed } = &mut *shard.lock();
            levels.retain(|(resource, region), _| {
                let stays = !gone.contains(region);
                if !stays {
                    changed.insert(resource[0]);
                }
                stays
            });
        }
        regions.numbers.retain(|_, number| !gone.contains(number));
        for number in gone {
            regions.names[usize::from(number)].clear();
            regions.free.push(number);
        }
    }

    /// Requests for a resource from a region, thousandths of a request per hour.
    pub fn rate(&self, resource: &Resource, region: &str, now_ms: u64) -> u64 {
        let regions = self.regions.read();
        let Some(number) = regions.numbers.get(region).copied() else { return 0 };
        self.shard(resource).lock().levels.get(&(*resource, number)).map_or(0, |level| rate(*level, now_ms))
    }

    /// Calls `each` with every count: resource, region, thousandths of a request per hour.
    pub fn rates(&self, now_ms: u64, mut each: impl FnMut(&Resource, &str, u64)) {
        for shard in &self.shards {
            // `each` may take its time, and may want to count.
            let (levels, regions) = {
                let regions = self.regions.read();
                let levels: Vec<_> = shard.lock().levels.iter().map(|(key, level)| (*key, *level)).collect();
                (levels, regions.names.clone())
            };
            for ((resource, region), level) in levels {
                let region = regions.get(usize::from(region)).map_or("", String::as_str);
                each(&resource, region, rate(level, now_ms));
            }
        }
    }

    /// How many counts there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().levels.len()).sum()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// First bytes of resources whose counts changed since the last call.
    pub(crate) fn take_changed(&self) -> BTreeSet<u8> {
        self.shards.iter().flat_map(|shard| std::mem::take(&mut shard.lock().changed)).collect()
    }

    /// The counts of resources that begin with a byte, to be kept; `None` when there are none.
    pub(crate) fn page(&self, first: u8, now_ms: u64) -> Option<Vec<u8>> {
        let regions = self.regions.read();
        let shard = self.shards[usize::from(first) % SHARDS].lock();
        let of_page = shard.levels.iter().filter(|((resource, _), _)| resource[0] == first);
        let rows: Vec<_> = of_page.map(|((resource, region), level)| (*resource, *region, *level)).collect();
        drop(shard);
        if rows.is_empty() {
            return None;
        }
        let page = Page { regions: regions.names.clone(), rows };
        drop(regions);
        Some(postcard::to_stdvec(&(page, now_ms)).expect("numbers and texts can always be written"))
    }

    /// Adds counts that were kept. `None` when they cannot be read; some may have been added by then.
    pub(crate) fn load(&self, page: &[u8], now_ms: u64) -> Option<()> {
        let (Page { regions, rows }, written) = postcard::take_from_bytes(page).ok()?;
        // An older version wrote no time.
        let written_ms = if written.is_empty() { now_ms } else { postcard::from_bytes(written).ok()? };
        // A clock that was ahead then wrote counts that would outrank all later ones.
        let ahead = days(written_ms.saturating_sub(now_ms));
        for (resource, region, level) in rows {
            if !level.is_finite() {
                return None;
            }
            let region = regions.get(usize::from(region))?;
            self.with_number(region, |number| self.add(&resource, number, level - ahead));
        }
        Some(())
    }

    fn add(&self, resource: &Resource, region: u16, level: f64) {
        let mut shard = self.shard(resource).lock();
        let key = (*resource, region);
        if let Some(before) = shard.levels.get_mut(&key) {
            *before = sum(*before, level);
        } else {
            if shard.levels.len() >= self.each {
                shard.evict();
            }
            shard.levels.insert(key, level);
        }
        shard.changed.insert(resource[0]);
    }

    fn shard(&self, resource: &Resource) -> &Mutex<Shard> {
        // Ids are hashes.
        &self.shards[usize::from(resource[0]) % SHARDS]
    }

    /// Does something with the number of a region.
    fn with_number(&self, region: &str, work: impl FnOnce(u16)) {
        let regions = self.regions.read();
        if let Some(number) = regions.numbers.get(region) {
            return work(*number);
        }
        drop(regions);
        let mut regions = self.regions.write();
        work(regions.take(region));
    }
}

impl Shard {
    fn evict(&mut self) {
        let mut all: Vec<_> = self.levels.iter().map(|(key, level)| (*level, *key)).collect();
        let count = all.len() / EVICTED;
        all.select_nth_unstable_by(count, |a, b| a.0.total_cmp(&b.0));
        for (_, key) in &all[..count] {
            self.levels.remove(key);
            self.changed.insert(key.0[0]);
        }
    }
}

fn days(now_ms: u64) -> f64 {
    now_ms as f64 / DAY_MS
}

/// Thousandths of a request per hour.
fn rate(level: f64, now_ms: u64) -> u64 {
    // `as` keeps within the bounds of u64.
    ((level - days(now_ms)).exp2() * PER_HOUR * 1000.0).round() as u64
}

/// The logarithm of the sum of what two logarithms stand for.
fn sum(a: f64, b: f64) -> f64 {
    let (more, less) = if a > b { (a, b) } else { (b, a) };
    more + (less - more).exp2().ln_1p() / std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;

    fn resource(number: u32) -> Resource {
        let mut resource = [0; 32];
        resource[..4].copy_from_slice(&number.to_le_bytes());
        resource
    }

    fn near(value: u64, wanted: u64) {
        assert!(value.abs_diff(wanted) <= wanted / 100, "{value} is not about {wanted}");
    }

    #[test]
    fn a_steady_rate_is_told_as_it_is() {
        let demand = Demand::new(1000);
        for minute in 0..30 * 24 * 60 {
            demand.count(&resource(1), "north", 2, NOW + minute * 60_000);
        }
        near(demand.rate(&resource(1), "north", NOW + 30 * DAY), 120_000);
        assert_eq!(demand.rate(&resource(1), "south", NOW), 0);
        assert_eq!(demand.rate(&resource(2), "north", NOW), 0);
    }

    #[test]
    fn a_count_halves_every_day() {
        let demand = Demand::new(1000);
        demand.count(&resource(1), "", 1_000_000, NOW);
        let now = demand.rate(&resource(1), "", NOW);
        near(now, (1e9 * PER_HOUR) as u64);
        near(demand.rate(&resource(1), "", NOW + DAY), now / 2);
        near(demand.rate(&resource(1), "", NOW + 10 * DAY), now / 1024);
        assert_eq!(demand.rate(&resource(1), "", NOW + 1000 * DAY), 0);
        // A clock that was set back does no harm.
        demand.count(&resource(1), "", 1, NOW - DAY);
        near(demand.rate(&resource(1), "", NOW), now);
        demand.count(&resource(2), "", u32::MAX, 0);
        assert_eq!(demand.rate(&resource(2), "", u64::MAX), 0);
        assert!(demand.rate(&resource(1), "", 0) > now);
    }

    #[test]
    fn a_full_table_keeps_what_is_asked_for_most() {
        let demand = Demand::new(SHARDS * 64);
        for number in 0..10_000 {
            // All in one shard.
            let number = number << 8;
            demand.count(&resource(number), "", if number == 3 << 8 { 50 } else { 1 }, NOW);
        }
        assert!((32..=64).contains(&demand.len()), "{}", demand.len());
        assert!(demand.rate(&resource(3 << 8), "", NOW) > 0);
    }

    #[test]
    fn counts_outlive_the_process() {
        let demand = Demand::new(1000);
        demand.count(&resource(1), "north", 1000, NOW);
        demand.count(&resource(0x101), "south", 500, NOW);
        demand.count(&resource(2), "north", 10, NOW);
        assert_eq!(demand.take_changed(), BTreeSet::from([1, 2]));
        assert!(demand.take_changed().is_empty());
        let again = Demand::new(1000);
        again.count(&resource(9), "elsewhere", 1, NOW);
        again.load(&demand.page(1, NOW).unwrap(), NOW).unwrap();
        let mut rates = Vec::new();
        again.rates(NOW, |resource, region, rate| rates.push((resource[1], region.to_owned(), rate)));
        rates.sort();
        assert_eq!(rates.len(), 3);
        assert_eq!(rates[1], (0, "north".to_owned(), demand.rate(&resource(1), "north", NOW)));
        assert_eq!(rates[2].1, "south");
        assert!(demand.page(3, NOW).is_none());
        for bytes in [b"".as_slice(), b"\xff\xff\xff\xff\xff", &[7; 100]] {
            assert!(again.load(bytes, NOW).is_none());
        }
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_outlive_the_process() {
        let demand = Demand::new(1000);
        demand.count(&resource(1), "", 100, NOW + 400 * DAY);
        let page = demand.page(1, NOW + 400 * DAY).unwrap();
        let again = Demand::new(1000);
        again.count(&resource(0x101), "", 200, NOW);
        again.load(&page, NOW).unwrap();
        let rate = |number| again.rate(&resource(number), "", NOW);
        near(rate(1), rate(0x101) / 2);
        // What a version before wrote has no time.
        let rows = vec![(resource(2), 0, days(NOW) + 200_f64.log2())];
        let old = postcard::to_stdvec(&Page { regions: vec![String::new()], rows }).unwrap();
        again.load(&old, NOW).unwrap();
        near(rate(2), rate(0x101));
    }

    #[test]
    fn regions_are_bounded() {
        let demand = Demand::new(100_000);
        for number in 0..MOST_REGIONS + 10 {
            demand.count(&resource(1), &format!("r{number}"), 1, NOW);
        }
        assert_eq!(demand.len(), MOST_REGIONS);
        assert!(demand.rate(&resource(1), "", NOW) > demand.rate(&resource(1), "r0", NOW));
    }

    #[test]
    fn regions_that_nobody_stands_in_make_room_for_others() {
        let demand = Demand::new(100_000);
        demand.count(&resource(1), "north", 5, NOW);
        for number in 0..MOST_REGIONS {
            demand.count(&resource(2), &format!("r{number}"), 1, NOW);
        }
        demand.take_changed();
        assert!(demand.lacks("south", NOW) && !demand.lacks("north", NOW));
        let north = demand.rate(&resource(1), "north", NOW);
        demand.keep_regions(|region| region == "north", NOW);
        // What was counted for those that are gone is gone, and is not kept; what nobody could tell stays.
        assert_eq!((demand.len(), demand.take_changed()), (2, BTreeSet::from([2])));
        assert!(!demand.lacks("south", NOW));
        demand.count(&resource(3), "south", 7, NOW);
        demand.count(&resource(1), "r0", 7, NOW);
        assert_eq!(
            (demand.rate(&resource(1), "north", NOW), demand.rate(&resource(3), "north", NOW)),
            (north, 0)
        );
        assert!(demand.rate(&resource(3), "south", NOW) > 0);
        // They are looked through once a minute, at most.
        for number in 0..MOST_REGIONS {
            demand.count(&resource(2), &format!("s{number}"), 1, NOW);
        }
        assert!(!demand.lacks("west", NOW + REGIONS_MS - 1) && demand.lacks("west", NOW + REGIONS_MS));
        // After a start names that nothing is counted for take no room.
        let again = Demand::new(100_000);
        again.load(&demand.page(3, NOW).unwrap(), NOW).unwrap();
        assert_eq!((again.regions.read().names.len(), again.rate(&resource(3), "south", NOW) > 0), (2, true));
    }
}
