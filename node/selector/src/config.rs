//! `[selector]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use skerry_policy::MOST_ROWS;
use skerry_registry::prefix::Prefix;
use url::Url;

use crate::distance::pair;

/// Longest name of a region, bytes.
const LONGEST_NAME: usize = 128;

/// `[selector]`: tells clients which nodes to go to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct SelectorConfig {
    /// Answer `/.skerry/v1/route`.
    pub enabled: bool,
    /// Region of clients that no file knows; empty is unknown.
    pub default_region: String,
    /// Which prefixes belong to which region: a coverage zone file as Apache Traffic Control has it; empty
    /// is none. This and the next two are read again when they change.
    pub coverage_zone_file: PathBuf,
    /// Which prefixes are served by which nodes before all others: a deep coverage zone file, whose caches
    /// are ids of nodes; empty is none.
    pub deep_coverage_zone_file: PathBuf,
    /// MaxMind DB files: country, ASN and ISP of clients, whichever a file has; the first that knows counts.
    pub mmdb_files: Vec<PathBuf>,
    /// Prefixes of those who may ask for others: with `client=`, `Forwarded` or `X-Forwarded-For`.
    pub trusted: Vec<Prefix>,
    /// URLs of trackers that clients are told of.
    pub trackers: Vec<String>,
    /// Send browsers that ask this node for a site or resource on to a better one, with 307.
    pub redirect: bool,
    /// Clients are sent to nodes that have one of these roles.
    pub roles: Vec<String>,
    /// Links that the policy chooses from for one client; of more, the nearest with room are taken.
    pub candidates: usize,
    /// Regions of countries by their ISO 3166-1 codes, for clients in no coverage zone: DE = "eu-central".
    pub regions: BTreeMap<String, String>,
    /// Measured round trips between regions, microseconds: "eu-west/eu-central" = 12000.
    pub distances_us: BTreeMap<String, u32>,
}

impl Default for SelectorConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            default_region: String::new(),
            coverage_zone_file: PathBuf::new(),
            deep_coverage_zone_file: PathBuf::new(),
            mmdb_files: Vec::new(),
            trusted: Vec::new(),
            trackers: Vec::new(),
            redirect: false,
            roles: ["cache", "superpeer", "files"].map(str::to_owned).into(),
            candidates: 60,
            regions: BTreeMap::new(),
            distances_us: BTreeMap::new(),
        }
    }
}

impl SelectorConfig {
    /// What cannot be said by types; the error is a key and a reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if !(1..=MOST_ROWS).contains(&self.candidates) {
            return Err(("selector.candidates", format!("must be from 1 to {MOST_ROWS}")));
        }
        if self.roles.is_empty() {
            return Err(("selector.roles", "names no role, so no client could be sent anywhere".into()));
        }
        if self.mmdb_files.iter().any(|path| path.as_os_str().is_empty()) {
            return Err(("selector.mmdb_files", "names a file by an empty path".into()));
        }
        let tracker = |text: &&String| {
            let url = Url::parse(text).ok();
            !url.is_some_and(|url| ["http", "https", "udp"].contains(&url.scheme()) && url.has_host())
        };
        if let Some(odd) = self.trackers.iter().find(tracker) {
            let reason = format!("has `{odd}`, which is no http://, https:// or udp:// URL");
            return Err(("selector.trackers", reason));
        }
        let code = |code: &&String| code.len() != 2 || !code.bytes().all(|byte| byte.is_ascii_uppercase());
        if let Some(odd) = self.regions.keys().find(code) {
            let reason = format!("has `{odd}`, which is no country's code of two capital letters");
            return Err(("selector.regions", reason));
        }
        if self.regions.values().chain([&self.default_region]).any(|name| name.len() > LONGEST_NAME) {
            let reason = format!("names a region with more than {LONGEST_NAME} bytes");
            return Err(("selector.regions", reason));
        }
        if let Some(odd) = self.distances_us.keys().find(|key| pair(key).is_none()) {
            let reason = format!("has `{odd}`, which is no pair of regions as \"eu-west/eu-central\"");
            return Err(("selector.distances_us", reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use skerry_core::config::commented;

    use super::*;

    #[test]
    fn printed_defaults_are_the_defaults_and_comment_every_key() {
        let text = commented("selector", &SelectorConfig::default());
        let body = text.split_once('\n').map(|(_, body)| body).unwrap_or_default();
        assert_eq!(toml::from_str::<SelectorConfig>(body).unwrap(), SelectorConfig::default());
        assert_eq!(SelectorConfig::default().check(), Ok(()));
        assert!(text.contains("# Region of clients") && text.contains("\ncandidates = 60\n"), "{text}");
    }

    #[test]
    fn a_whole_table_is_read() {
        let text = r#"
            enabled = true
            default_region = "eu-central"
            coverage_zone_file = "/etc/skerry/zones.json"
            mmdb_files = ["/etc/skerry/country.mmdb"]
            trusted = ["10.0.0.0/8", "::1"]
            trackers = ["https://t.example/announce", "udp://t.example:6969"]
            regions = { DE = "eu-central", FR = "eu-west" }
            distances_us = { "eu-west/eu-central" = 12000 }
        "#;
        let config: SelectorConfig = toml::from_str(text).unwrap();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.distances_us["eu-west/eu-central"], 12_000);
        let error = toml::from_str::<SelectorConfig>("trusted = [\"10.0.0.1/8\"]").unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/8"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |change: &dyn Fn(&mut SelectorConfig)| {
            let mut config = SelectorConfig::default();
            change(&mut config);
            config.check().unwrap_err().0
        };
        assert_eq!(refused(&|config| config.candidates = 0), "selector.candidates");
        assert_eq!(refused(&|config| config.candidates = MOST_ROWS + 1), "selector.candidates");
        assert_eq!(refused(&|config| config.roles.clear()), "selector.roles");
        assert_eq!(refused(&|config| config.mmdb_files.push("".into())), "selector.mmdb_files");
        assert_eq!(refused(&|config| config.trackers.push("t.example".into())), "selector.trackers");
        assert_eq!(
            refused(&|config| drop(config.regions.insert("de".into(), "x".into()))),
            "selector.regions"
        );
        assert_eq!(refused(&|config| config.default_region = "x".repeat(129)), "selector.regions");
        let single = BTreeMap::from([("eu".to_owned(), 1)]);
        assert_eq!(refused(&|config| config.distances_us = single.clone()), "selector.distances_us");
    }
}
