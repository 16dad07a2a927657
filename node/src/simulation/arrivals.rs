//! When peers come: by the hour of their region's day, and in crowds.

use fastrand::Rng;

use super::catalogue::Catalogue;
use super::map::{DAY_MINUTES, Map};
use super::settings::Settings;

/// What an arrival that is of no crowd has for one.
pub(super) const NO_CROWD: u8 = u8::MAX;
/// Who comes at each hour of a region's day, permille of the most.
const HOURS: [u64; 24] = [
    520, 360, 250, 180, 150, 160, 210, 300, 390, 440, 490, 540, 590, 610, 600, 640, 700, 790, 900, 980, 1000,
    950, 840, 690,
];
const MINUTE_MS: u64 = 60_000;
/// How long it takes until all of a crowd are there, milliseconds.
const CROWD_MS: u64 = 60_000;

/// Peers that come for the same at the same time.
pub(super) struct Crowd {
    pub(super) resource: u32,
    /// When the first may come, milliseconds since the start.
    pub(super) at_ms: u64,
    /// All of this region; `None` is of everywhere.
    pub(super) region: Option<u8>,
    pub(super) peers: u32,
}

/// One who comes. Its number is its place among all.
pub(super) struct Arrival {
    /// Milliseconds since the start.
    pub(super) at_ms: u32,
    pub(super) region: u8,
    /// The crowd that it is of, or [`NO_CROWD`].
    pub(super) crowd: u8,
}

/// The crowds, spread evenly over the time that is simulated.
pub(super) fn crowds(settings: &Settings, map: &Map, catalogue: &Catalogue) -> Vec<Crowd> {
    let end_ms = u64::from(settings.hours) * 60 * MINUTE_MS;
    let peers = settings.crowd_peers.min(settings.peers / 2 / settings.crowds.max(1));
    let crowd = |number: u32| Crowd {
        resource: catalogue.of_crowd(number),
        at_ms: end_ms * u64::from(number + 1) / u64::from(settings.crowds + 1),
        region: (number % 2 == 1).then_some((number as usize % map.regions()) as u8),
        peers,
    };
    (0..settings.crowds).map(crowd).filter(|crowd| crowd.peers > 0).collect()
}

/// All who come, in their order.
pub(super) fn arrivals(settings: &Settings, map: &Map, crowds: &[Crowd], random: &mut Rng) -> Vec<Arrival> {
    let mut all = Vec::with_capacity(settings.peers as usize);
    for (crowd, number) in crowds.iter().zip(0..) {
        for _ in 0..crowd.peers {
            let region = crowd.region.unwrap_or_else(|| random.u8(..map.regions() as u8));
            all.push(Arrival { at_ms: (crowd.at_ms + random.u64(..CROWD_MS)) as u32, region, crowd: number });
        }
    }
    let minutes = u64::from(settings.hours) * 60;
    // By region: how many come in each minute and in those before, as shares.
    let days: Vec<Vec<u64>> = (0..map.regions() as u8).map(|region| day(map, region, minutes)).collect();
    while all.len() < settings.peers as usize {
        let region = random.u8(..map.regions() as u8);
        let sums = &days[usize::from(region)];
        let point = random.u64(..sums[sums.len() - 1]);
        let minute = sums.partition_point(|sum| *sum <= point) as u64;
        let at_ms = minute * MINUTE_MS + random.u64(..MINUTE_MS);
        all.push(Arrival { at_ms: at_ms as u32, region, crowd: NO_CROWD });
    }
    all.sort_by_key(|arrival| arrival.at_ms);
    all
}

fn day(map: &Map, region: u8, minutes: u64) -> Vec<u64> {
    let mut sum = 0;
    let sums = (0..minutes).map(|minute| {
        sum += demand(map.local_minute(region, minute));
        sum
    });
    sums.collect()
}

/// How many come at a minute of the day, between the hours' figures.
fn demand(minute: u64) -> u64 {
    let (hour, past) = ((minute / 60) as usize, minute % 60);
    HOURS[hour] * (60 - past) + HOURS[(hour + 1) % HOURS.len()] * past
}

const _: () = assert!(HOURS.len() as u64 * 60 == DAY_MINUTES);

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(settings: &Settings) -> (Vec<Arrival>, Vec<Crowd>, Map) {
        let mut random = Rng::with_seed(4);
        let map = Map::new(settings.regions);
        let catalogue = Catalogue::new(settings, &mut random);
        let crowds = crowds(settings, &map, &catalogue);
        (arrivals(settings, &map, &crowds, &mut random), crowds, map)
    }

    #[test]
    fn all_come_in_their_order_and_most_in_the_evening() {
        let settings = Settings::quick();
        let (all, _, map) = plan(&settings);
        assert_eq!(all.len(), settings.peers as usize);
        assert!(all.is_sorted_by_key(|arrival| arrival.at_ms));
        assert!(all.iter().all(|arrival| u64::from(arrival.at_ms) < 24 * 60 * MINUTE_MS));
        let within = |from: u64, to: u64| {
            let hour = |arrival: &&Arrival| {
                let local = map.local_minute(arrival.region, u64::from(arrival.at_ms) / MINUTE_MS) / 60;
                arrival.crowd == NO_CROWD && (from..to).contains(&local)
            };
            all.iter().filter(hour).count()
        };
        assert!(within(18, 22) > 4 * within(2, 6), "{} {}", within(18, 22), within(2, 6));
    }

    #[test]
    fn crowds_come_within_a_minute_and_every_second_one_is_of_a_region() {
        let (all, crowds, _) = plan(&Settings { crowds: 4, ..Settings::quick() });
        for (crowd, number) in crowds.iter().zip(0..) {
            let of: Vec<&Arrival> = all.iter().filter(|arrival| arrival.crowd == number).collect();
            assert_eq!(of.len(), crowd.peers as usize);
            let time = crowd.at_ms..crowd.at_ms + CROWD_MS;
            assert!(of.iter().all(|arrival| time.contains(&u64::from(arrival.at_ms))));
            let alike = of.iter().all(|arrival| arrival.region == of[0].region);
            assert_eq!(alike, number % 2 == 1);
            assert_eq!(crowd.region, alike.then_some(of[0].region));
        }
    }

    #[test]
    fn crowds_are_no_more_than_half_of_all() {
        let (all, crowds, _) = plan(&Settings { peers: 100, crowds: 3, ..Settings::quick() });
        assert_eq!(crowds.iter().map(|crowd| crowd.peers).collect::<Vec<_>>(), [16, 16, 16]);
        assert_eq!(all.len(), 100);
        let (all, crowds, _) = plan(&Settings { peers: 3, crowds: 3, ..Settings::quick() });
        assert_eq!((all.len(), crowds.len()), (3, 0));
    }
}
