//! `[preload]`.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use skerry_window::Windows;

/// `[preload]`: what the node holds before anybody asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct PreloadConfig {
    /// Whether the node fetches what its control node lists for it.
    pub enabled: bool,
    /// Hours at which it does, UTC, of all days or of some: ["01:00-06:00", "Sat,Sun 22:30-08:00"]; without any
    /// it always does.
    pub windows: Windows,
    /// Bytes per second that all of it may take; 0 is no limit.
    pub rate_bytes: u64,
    /// What preloaded resources may take on the disk; 0 is as much as may be pinned.
    pub capacity_bytes: u64,
    /// Resources that are fetched at once.
    pub at_once: usize,
    /// Whether what neither another node nor the origin gives is fetched from BitTorrent peers, by the
    /// trackers of `superpeer.trackers` or `selector.trackers`.
    pub from_peers: bool,
    /// How often the list is asked for.
    pub interval_seconds: u64,
    /// On the control node: how often each node's list is planned anew.
    pub plan_seconds: u64,
}

impl Default for PreloadConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            windows: Windows::default(),
            rate_bytes: 0,
            capacity_bytes: 0,
            at_once: 2,
            from_peers: true,
            interval_seconds: 60,
            plan_seconds: 300,
        }
    }
}

impl PreloadConfig {
    /// What cannot be said by types; the error is a key and a reason.
    ///
    /// # Errors
    /// When something cannot be.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.windows.0.len() > Windows::MOST {
            return Err(("preload.windows", format!("must be at most {}", Windows::MOST)));
        }
        if !(1..=64).contains(&self.at_once) {
            return Err(("preload.at_once", "must be from 1 to 64".into()));
        }
        if !(1..=86_400).contains(&self.interval_seconds) {
            return Err(("preload.interval_seconds", "must be from 1 to 86400".into()));
        }
        if !(10..=86_400).contains(&self.plan_seconds) {
            return Err(("preload.plan_seconds", "must be from 10 to 86400".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use skerry_core::config;

    use super::*;

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Whole {
        preload: PreloadConfig,
    }

    fn parse(text: &str) -> Result<PreloadConfig, String> {
        let whole = toml::from_str::<Whole>(text);
        whole.map(|whole| whole.preload).map_err(|error| error.to_string())
    }

    #[test]
    fn the_printed_defaults_are_the_defaults_and_are_right() {
        let text = config::commented("preload", &PreloadConfig::default());
        assert_eq!(parse(&text).unwrap(), PreloadConfig::default());
        assert_eq!(PreloadConfig::default().check(), Ok(()));
        for field in PreloadConfig::FIELD_NAMES {
            assert!(text.contains(&format!("\n{field} = ")), "{field} is missing");
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let refused = |text: &str| parse(&format!("[preload]\n{text}")).unwrap().check().unwrap_err().0;
        assert_eq!(refused("at_once = 0"), "preload.at_once");
        assert_eq!(refused("interval_seconds = 0"), "preload.interval_seconds");
        assert_eq!(refused("plan_seconds = 1"), "preload.plan_seconds");
        let many = vec!["\"01:00-02:00\""; Windows::MOST + 1].join(",");
        assert_eq!(refused(&format!("windows = [{many}]")), "preload.windows");
        let error = parse("[preload]\nwindows = [\"1-2\"]").unwrap_err();
        assert!(error.contains("01:00-06:00"), "{error}");
        let read = parse("[preload]\nwindows = [\"01:00-06:00\", \"Sat,Sun 22:30-08:00\"]").unwrap();
        assert_eq!(read.windows.0[0].to_string(), "01:00-06:00");
        assert_eq!(read.windows.0[1].to_string(), "Sat,Sun 22:30-08:00");
    }
}
