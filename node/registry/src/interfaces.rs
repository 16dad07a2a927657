//! What links carry, from the counters of their network interfaces.
//!
//! Links that share an interface are told the use of all of it: what one carries, the others cannot.
//! Of the two directions the busier one counts. The loopback is never looked at.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::config::LinkConfig;
use crate::fleet::Link;

/// Where Linux shows network interfaces.
pub const FOLDER: &str = "/sys/class/net";
/// Capacity of a link when neither configuration nor interface tells: a gigabit per second.
const ASSUMED_KBPS: u64 = 1_000_000;

#[derive(Debug, Clone, Copy)]
struct Counters {
    tx_bytes: u64,
    rx_bytes: u64,
    at_ms: u64,
}

/// An interface between two measurements.
#[derive(Debug, Clone, Copy, Default)]
struct Interface {
    last: Option<Counters>,
    used_kbps: u64,
    /// What it can carry, by its own word.
    speed_kbps: Option<u64>,
    up: bool,
}

/// Measures the links of a node.
pub struct Meter {
    links: Vec<LinkConfig>,
    folder: PathBuf,
    interfaces: HashMap<String, Interface>,
}

impl Meter {
    /// Links as they are configured.
    pub fn new(links: Vec<LinkConfig>) -> Self {
        Self::below(links, Path::new(FOLDER))
    }

    fn below(links: Vec<LinkConfig>, folder: &Path) -> Self {
        let names = links.iter().map(|link| link.interface.as_str());
        let names = names.filter(|name| !matches!(*name, "" | "lo"));
        let interfaces = names.map(|name| (name.to_owned(), Interface::default())).collect();
        Self { links, folder: folder.to_owned(), interfaces }
    }

    /// Whether there are no links to measure.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// The links as they are now; what they carry is the mean since the call before, and 0 at the first.
    pub fn links(&mut self, now_ms: u64) -> Vec<Link> {
        for (name, interface) in &mut self.interfaces {
            interface.measure(&self.folder.join(name), now_ms);
        }
        self.links.iter().map(|link| self.link(link, now_ms)).collect()
    }

    fn link(&self, link: &LinkConfig, now_ms: u64) -> Link {
        let interface = self.interfaces.get(&link.interface);
        let speed = interface.and_then(|interface| interface.speed_kbps);
        let capacity = match link.capacity_kbps {
            0 => speed.unwrap_or(ASSUMED_KBPS),
            configured => configured,
        };
        Link {
            name: link.name.clone(),
            url: link.url.clone(),
            isp: link.isp.clone(),
            asns: link.asns.clone(),
            prefixes: link.prefixes.clone(),
            capacity_kbps: capacity,
            used_kbps: interface.map_or(0, |interface| interface.used_kbps),
            healthy: interface.is_none_or(|interface| interface.up),
            measured_at_ms: now_ms,
        }
    }
}

impl Interface {
    fn measure(&mut self, folder: &Path, now_ms: u64) {
        // `unknown` is what virtual interfaces say when they are up.
        self.up = matches!(read(&folder.join("operstate")).as_deref(), Some("up" | "unknown"));
        // In Mbit/s; -1 or an error when nobody knows.
        let speed = number(&folder.join("speed")).filter(|speed| *speed > 0);
        self.speed_kbps = speed.map(|speed| speed.saturating_mul(1000));
        let counters =
            number(&folder.join("statistics/tx_bytes")).zip(number(&folder.join("statistics/rx_bytes")));
        let now = counters.map(|(tx_bytes, rx_bytes)| Counters { tx_bytes, rx_bytes, at_ms: now_ms });
        match (self.last, now) {
            (Some(last), Some(now)) => {
                // `None` when the interface was made anew; what it carried stands until the next time.
                if let Some(used) = rate(last, now) {
                    self.used_kbps = used;
                }
            }
            _ => self.used_kbps = 0,
        }
        self.last = now;
    }
}

/// Kilobits per second, which are bits per millisecond, in the busier direction.
fn rate(last: Counters, now: Counters) -> Option<u64> {
    let elapsed = now.at_ms.checked_sub(last.at_ms).filter(|elapsed| *elapsed > 0)?;
    let tx = now.tx_bytes.checked_sub(last.tx_bytes)?;
    let rx = now.rx_bytes.checked_sub(last.rx_bytes)?;
    Some(tx.max(rx).saturating_mul(8) / elapsed)
}

fn read(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn number(path: &Path) -> Option<u64> {
    read(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn link(name: &str, interface: &str, capacity_kbps: u64) -> LinkConfig {
        LinkConfig { name: name.into(), interface: interface.into(), capacity_kbps, ..LinkConfig::default() }
    }

    fn show(folder: &Path, name: &str, state: &str, speed: &str, tx_bytes: u64, rx_bytes: u64) {
        let folder = folder.join(name);
        fs::create_dir_all(folder.join("statistics")).unwrap();
        for (file, text) in [
            ("operstate", state.to_owned()),
            ("speed", speed.to_owned()),
            ("statistics/tx_bytes", tx_bytes.to_string()),
            ("statistics/rx_bytes", rx_bytes.to_string()),
        ] {
            fs::write(folder.join(file), text + "\n").unwrap();
        }
    }

    #[test]
    fn the_busier_direction_over_the_interval_counts() {
        let folder = tempfile::tempdir().unwrap();
        show(folder.path(), "eth0", "up", "1000", 1_000_000, 500);
        let mut meter = Meter::below(vec![link("a", "eth0", 0), link("b", "eth0", 50)], folder.path());
        let links = meter.links(10_000);
        assert_eq!((links[0].used_kbps, links[0].capacity_kbps, links[0].healthy), (0, 1_000_000, true));
        assert_eq!(links[1].capacity_kbps, 50);
        // 10 MB in 10 s are 8 Mbit/s.
        show(folder.path(), "eth0", "up", "1000", 11_000_000, 600);
        let links = meter.links(20_000);
        assert_eq!((links[0].used_kbps, links[1].used_kbps, links[0].measured_at_ms), (8000, 8000, 20_000));
        show(folder.path(), "eth0", "up", "1000", 11_000_000, 1_250_600);
        assert_eq!(meter.links(30_000)[0].used_kbps, 1000);
    }

    #[test]
    fn a_counter_that_begins_anew_is_no_flood() {
        let folder = tempfile::tempdir().unwrap();
        let mut meter = Meter::below(vec![link("a", "eth0", 0)], folder.path());
        show(folder.path(), "eth0", "up", "-1", 5_000_000, 0);
        meter.links(1000);
        show(folder.path(), "eth0", "up", "-1", 6_000_000, 0);
        assert_eq!(meter.links(2000)[0].used_kbps, 8000);
        show(folder.path(), "eth0", "up", "-1", 7, 0);
        assert_eq!(meter.links(3000)[0].used_kbps, 8000);
        show(folder.path(), "eth0", "up", "-1", 125_007, 0);
        let links = meter.links(4000);
        assert_eq!((links[0].used_kbps, links[0].capacity_kbps), (1000, ASSUMED_KBPS));
        // Neither does a clock that stands.
        assert_eq!(meter.links(4000)[0].used_kbps, 1000);
    }

    #[test]
    fn a_link_whose_interface_is_down_or_gone_takes_no_clients() {
        let folder = tempfile::tempdir().unwrap();
        show(folder.path(), "eth0", "down", "", 1, 1);
        show(folder.path(), "veth0", "unknown", "10", 1, 1);
        let names = [link("a", "eth0", 0), link("b", "veth0", 0), link("c", "none", 0), link("d", "", 0)];
        let links = Meter::below(names.to_vec(), folder.path()).links(1000);
        let healthy: Vec<bool> = links.iter().map(|link| link.healthy).collect();
        assert_eq!(healthy, [false, true, false, true]);
    }

    #[test]
    fn the_loopback_is_never_measured() {
        let folder = tempfile::tempdir().unwrap();
        show(folder.path(), "lo", "unknown", "", 0, 0);
        let mut meter = Meter::below(vec![link("a", "lo", 0)], folder.path());
        meter.links(1000);
        show(folder.path(), "lo", "unknown", "", 1 << 40, 0);
        assert_eq!(meter.links(2000)[0].used_kbps, 0);
    }
}
