//! What is asked for: resources of lognormal lengths, asked for by Zipf's law, and one for each crowd.

use fastrand::Rng;
use skerry_registry::hex;
use skerry_store::ChunkId;

use super::settings::Settings;

/// Name of the site that all of them come from.
pub(super) const SITE: &str = "default";
/// Before a resource's number in its target.
const PATH: &str = "/r/";
/// Lengths: the median, the deviation of the logarithm, and the bounds.
const MEDIAN_BYTES: f64 = 500e6;
const DEVIATION: f64 = 1.2;
const LEAST_BYTES: f64 = 10e6;
const MOST_BYTES: f64 = 8e9;
/// Length of what crowds come for.
const CROWD_BYTES: u64 = 2_000_000_000;

/// One resource.
pub(super) struct Resource {
    pub(super) id: ChunkId,
    /// The id in hex digits.
    pub(super) hex: String,
    pub(super) info_hash: [u8; 20],
    /// The info-hash in hex digits.
    pub(super) info_hex: String,
    pub(super) path: String,
    /// Bytes.
    pub(super) length: u64,
}

/// All of them: those asked for by Zipf's law, the most popular first, then those of the crowds.
pub(super) struct Catalogue {
    resources: Vec<Resource>,
    /// What a resource and all before it are asked for, one of rank 1 being asked for once.
    popularity: Vec<f64>,
}

impl Catalogue {
    pub(super) fn new(settings: &Settings, random: &mut Rng) -> Self {
        let usual = settings.resources;
        let all = (0..usual + settings.crowds).map(|number| {
            let length = if number < usual { length(random) } else { CROWD_BYTES };
            resource(number, length, random)
        });
        let mut sum = 0.0;
        let popularity = (1..=usual).map(|rank| {
            sum += f64::from(rank).powf(-settings.zipf);
            sum
        });
        Self { resources: all.collect(), popularity: popularity.collect() }
    }

    /// Somebody's choice.
    pub(super) fn draw(&self, random: &mut Rng) -> u32 {
        let point = random.f64() * self.popularity.last().copied().unwrap_or(0.0);
        let place = self.popularity.partition_point(|sum| *sum <= point);
        place.min(self.popularity.len() - 1) as u32
    }

    /// The resource of a crowd.
    pub(super) fn of_crowd(&self, crowd: u32) -> u32 {
        self.popularity.len() as u32 + crowd
    }

    pub(super) fn get(&self, number: u32) -> &Resource {
        &self.resources[number as usize]
    }

    /// The number of the resource at a target.
    pub(super) fn at(&self, path: &str) -> Option<u32> {
        let number = path.strip_prefix(PATH)?.parse::<u32>().ok()?;
        ((number as usize) < self.resources.len()).then_some(number)
    }

    pub(super) fn len(&self) -> usize {
        self.resources.len()
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.resources.iter().map(|resource| resource.length).sum()
    }
}

fn resource(number: u32, length: u64, random: &mut Rng) -> Resource {
    let mut id = [0; 32];
    random.fill(&mut id);
    let mut info_hash = [0; 20];
    random.fill(&mut info_hash);
    Resource {
        id: ChunkId(id),
        hex: hex::encode(&id),
        info_hash,
        info_hex: hex::encode(&info_hash),
        path: format!("{PATH}{number}"),
        length,
    }
}

fn length(random: &mut Rng) -> u64 {
    let bytes = MEDIAN_BYTES * (DEVIATION * normal(random)).exp();
    bytes.clamp(LEAST_BYTES, MOST_BYTES) as u64
}

/// Normally distributed, with a deviation of 1 (G. E. P. Box and M. E. Muller, *A Note on the Generation
/// of Random Normal Deviates*, Annals of Mathematical Statistics 29 (2), 1958).
fn normal(random: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_asked_for_by_many() {
        let settings = Settings { resources: 1000, zipf: 1.0, ..Settings::quick() };
        let mut random = Rng::with_seed(1);
        let catalogue = Catalogue::new(&settings, &mut random);
        let mut times = vec![0_u32; catalogue.len()];
        for _ in 0..100_000 {
            times[catalogue.draw(&mut random) as usize] += 1;
        }
        // The sum of 1/k up to 1000 is 7.485.
        assert!((12_800..13_900).contains(&times[0]), "{}", times[0]);
        assert!((6300..7100).contains(&times[1]), "{}", times[1]);
        assert_eq!(times[1000..], [0, 0]);
    }

    #[test]
    fn lengths_are_lognormal_within_their_bounds() {
        let catalogue = Catalogue::new(&Settings::default(), &mut Rng::with_seed(2));
        let mut lengths: Vec<u64> = (0..5000).map(|number| catalogue.get(number).length).collect();
        lengths.sort_unstable();
        assert!((450e6..550e6).contains(&(lengths[2500] as f64)), "{}", lengths[2500]);
        assert!(lengths[0] >= 10_000_000 && lengths[4999] <= 8_000_000_000);
        // More than a node can hold.
        let settings = Settings::default();
        assert!(catalogue.bytes() > 3 * (settings.preloaded_bytes + settings.cached_bytes));
    }

    #[test]
    fn a_target_names_its_resource() {
        let settings = Settings::quick();
        let catalogue = Catalogue::new(&settings, &mut Rng::with_seed(3));
        let last = catalogue.of_crowd(settings.crowds - 1);
        assert_eq!(catalogue.at(&catalogue.get(last).path), Some(last));
        assert_eq!(catalogue.get(last).length, CROWD_BYTES);
        for odd in ["", "/r/", "/r/x", "/r/9999999", "/s/1"] {
            assert_eq!(catalogue.at(odd), None, "{odd}");
        }
    }
}
