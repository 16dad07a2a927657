//! How much of everything is simulated.

use serde::Serialize;

/// Peers at most: the number of each is part of its address.
pub const MOST_PEERS: u32 = 1 << 22;
/// Nodes at most.
pub const MOST_NODES: u32 = 10_000;
/// Regions at most.
pub const MOST_REGIONS: u32 = 64;
/// Resources at most: as many as a planner knows the sources of, with room to spare.
pub const MOST_RESOURCES: u32 = 100_000;
/// Hours at most: a week.
pub const MOST_HOURS: u32 = 168;
/// Crowds at most.
pub const MOST_CROWDS: u32 = 100;

/// What is simulated. Nodes begin empty, and nobody knows what will be asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// Peers that come in all; each gets one resource.
    pub peers: u32,
    /// Nodes, dealt out to regions and to operators in turn.
    pub nodes: u32,
    /// Regions, spread evenly around the earth.
    pub regions: u32,
    /// Resources, without those of the crowds.
    pub resources: u32,
    /// Exponent of Zipf's law, by which resources are asked for; 0 is all alike.
    pub zipf: f64,
    /// Time that is simulated, hours; it begins at midnight UTC.
    pub hours: u32,
    /// The same seed gives the same figures.
    pub seed: u64,
    /// Crowds that come for a resource that nobody has yet; every second one is of one region alone.
    pub crowds: u32,
    /// Peers of a crowd; of all peers no more than half are of crowds.
    pub crowd_peers: u32,
    /// Peers that upload nothing, permille.
    pub idle_permille: u32,
    /// What each of a node's two links carries, kilobits per second: one is for its operator's clients, one
    /// for anybody.
    pub link_kbps: u64,
    /// What a node gets from the origin, kilobits per second.
    pub origin_kbps: u64,
    /// How much of that preloading may take, kilobits per second.
    pub preload_kbps: u64,
    /// What preloaded resources may take on a node, bytes.
    pub preloaded_bytes: u64,
    /// What other resources may take there, bytes.
    pub cached_bytes: u64,
}

impl Default for Settings {
    /// A million peers and 500 nodes in a day.
    fn default() -> Self {
        Self {
            peers: 1_000_000,
            nodes: 500,
            regions: 10,
            resources: 5000,
            zipf: 0.9,
            hours: 24,
            seed: 1,
            crowds: 8,
            crowd_peers: 5000,
            idle_permille: 400,
            link_kbps: 500_000,
            origin_kbps: 1_000_000,
            preload_kbps: 200_000,
            preloaded_bytes: 256 << 30,
            cached_bytes: 128 << 30,
        }
    }
}

impl Settings {
    /// 20,000 peers and 50 nodes: seconds instead of minutes.
    pub fn quick() -> Self {
        Self {
            peers: 20_000,
            nodes: 50,
            regions: 5,
            resources: 500,
            crowds: 2,
            crowd_peers: 500,
            preloaded_bytes: 64 << 30,
            cached_bytes: 32 << 30,
            ..Self::default()
        }
    }

    /// What cannot be simulated; the error says why.
    ///
    /// # Errors
    /// When a number is out of its range.
    pub fn check(&self) -> Result<(), String> {
        for (what, value, least, most) in [
            ("peers", self.peers, 1, MOST_PEERS),
            ("nodes", self.nodes, 1, MOST_NODES),
            ("regions", self.regions, 1, MOST_REGIONS),
            ("resources", self.resources, 1, MOST_RESOURCES),
            ("hours", self.hours, 1, MOST_HOURS),
            ("crowds", self.crowds, 0, MOST_CROWDS),
            ("peers of a crowd", self.crowd_peers, 1, MOST_PEERS),
            ("idle peers, permille", self.idle_permille, 0, 1000),
        ] {
            if !(least..=most).contains(&value) {
                return Err(format!("the number of {what} must be from {least} to {most}"));
            }
        }
        if !(0.0..=4.0).contains(&self.zipf) {
            return Err("the exponent of Zipf's law must be from 0 to 4".into());
        }
        let rates = [self.link_kbps, self.origin_kbps, self.preload_kbps];
        // A link of 4 Tbit/s is the most that policies see.
        if rates.iter().any(|kbps| !(1000..=u64::from(u32::MAX)).contains(kbps)) {
            return Err("links must carry from 1000 to 4294967295 kilobits per second".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sizes_can_be_simulated_and_nonsense_cannot() {
        assert_eq!((Settings::default().check(), Settings::quick().check()), (Ok(()), Ok(())));
        let refused = |change: fn(&mut Settings)| {
            let mut settings = Settings::quick();
            change(&mut settings);
            settings.check().unwrap_err()
        };
        assert!(refused(|settings| settings.peers = MOST_PEERS + 1).contains("number of peers"));
        assert!(refused(|settings| settings.nodes = 0).contains("nodes"));
        assert!(refused(|settings| settings.zipf = f64::NAN).contains("Zipf"));
        assert!(refused(|settings| settings.link_kbps = 0).contains("links"));
    }
}
