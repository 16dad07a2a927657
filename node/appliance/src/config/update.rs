//! `[update]`.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use skerry_window::Windows;

use super::endpoint::Endpoint;

const MOST_RING: usize = 32;

/// `[update]`: where new images come from, and when they may be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateConfig {
    /// Folder of signed images: https://HOST/PATH; empty takes them from a stick alone.
    pub source: String,
    /// Certificates, PEM, of the authorities that `source` is believed by, and of no others; without any, of those
    /// that everybody believes.
    pub authorities: String,
    /// Times at which they may be installed, UTC: ["Mon..Fri 02:00-05:00", "Sun 22:30-06:00"]; without any, at
    /// all times.
    pub window: Windows,
    /// Name of the group of boxes that this one is updated with; the fleet is told.
    pub ring: String,
    /// Whether the box looks for updates and installs them by itself.
    pub automatic: bool,
}

impl UpdateConfig {
    /// What cannot be said by types; the error is a whole key and a reason.
    ///
    /// # Errors
    /// When something cannot be.
    pub fn check(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, reason: &str| Err((format!("update.{key}"), reason.to_owned()));
        if !self.source.is_empty() {
            match Endpoint::parse(&self.source) {
                Ok(source) if source.scheme != "https" => return wrong("source", "must begin with https://"),
                Err(reason) => return wrong("source", reason),
                Ok(_) => {}
            }
            // It is written into files of systemd-sysupdate, where a % begins something else.
            if self.source.contains(['%', '?', '#']) || self.source.contains(char::is_whitespace) {
                return wrong("source", "must be scheme, host and path, without %, ? or #");
            }
        }
        let pem = ["-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"];
        if !self.authorities.is_empty() && !pem.iter().all(|line| self.authorities.contains(line)) {
            return wrong("authorities", "must be certificates, PEM");
        }
        if self.automatic && self.source.is_empty() {
            return wrong("automatic", "needs `update.source`");
        }
        if self.window.0.len() > Windows::MOST {
            return wrong("window", &format!("has more than {} entries", Windows::MOST));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if self.ring.len() > MOST_RING || !self.ring.bytes().all(plain) {
            return wrong("ring", "must be at most 32 letters, digits, `-`, `_` and `.`");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_named() {
        let refused = |text: &str| {
            let config: UpdateConfig = toml::from_str(text).unwrap();
            config.check().unwrap_err().0
        };
        assert_eq!(refused("source = \"http://a\""), "update.source");
        assert_eq!(refused("source = \"a\""), "update.source");
        assert_eq!(refused("source = \"https://a/%h\""), "update.source");
        assert_eq!(refused("automatic = true"), "update.automatic");
        assert_eq!(refused("authorities = \"/etc/ssl/own.pem\""), "update.authorities");
        assert_eq!(refused("ring = \"a b\""), "update.ring");
        let many = ["\"01:00-02:00\""; Windows::MOST + 1].join(",");
        assert_eq!(refused(&format!("window = [{many}]")), "update.window");
        let right = "source = \"https://updates.example/skerry/\"\nwindow = [\"Sun 02:00-05:00\"]\nring = \"early\"\n\
                     automatic = true";
        assert_eq!(toml::from_str::<UpdateConfig>(right).unwrap().check(), Ok(()));
        assert_eq!(UpdateConfig::default().check(), Ok(()));
    }
}
