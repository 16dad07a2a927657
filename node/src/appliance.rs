//! What the box around the node tells of itself: `skerry_box_*`, and `box` in `/status`.
//!
//! `skerry-box` writes it to a file whenever something changes; on a server that was not flashed there is none.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Request, Response};
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use serde_json::Value;
use skerry_appliance::layout::Layout;
use skerry_appliance::status::BoxState;
use skerry_appliance::{facts, files};
use skerry_core::metrics::register;
use skerry_core::role::BoxFuture;
use skerry_core::{Body, Role};
use skerry_registry::message::MOST_NAME;

/// Written by `skerry_appliance::status`.
const FILE: &str = "/run/skerry-box/box.json";
/// Largest file that is read, bytes.
const MOST: u64 = 1 << 20;

/// Version of the image that runs, as the fleet is told; empty on a server that was not flashed.
pub fn image_version() -> String {
    version(&facts::image(&Layout::default()).version)
}

/// Of a version what one can be made of (os-release(5)): the fleet takes no other.
fn version(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || "._-+~^".contains(*c)).take(MOST_NAME).collect()
}

/// The box, as a role.
pub struct BoxRole {
    file: PathBuf,
    image: IntGaugeVec,
    wrong: IntGauge,
    rolled_back: IntGauge,
}

impl BoxRole {
    /// Registers the families.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let image = Opts::new("skerry_box_image_info", "Version of the image that runs; 1.");
        Ok(Self {
            file: Path::new(FILE).to_owned(),
            image: register(registry, IntGaugeVec::new(image, &["image", "version"])?)?,
            wrong: register(
                registry,
                IntGauge::new("skerry_box_wrong", "Things that are wrong with the box.")?,
            )?,
            rolled_back: register(
                registry,
                IntGauge::new(
                    "skerry_box_rolled_back",
                    "1 while the box is back from a newer version that failed.",
                )?,
            )?,
        })
    }

    fn state(&self) -> Option<BoxState> {
        serde_json::from_slice(&files::read(&self.file, MOST).ok()?).ok()
    }
}

impl Role for BoxRole {
    fn name(&self) -> &'static str {
        "box"
    }

    fn admin(&self, _request: Request<Bytes>) -> BoxFuture<'_, Option<Response<Body>>> {
        Box::pin(async { None })
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Value {
        self.state().map_or(Value::Null, |state| serde_json::json!(state))
    }

    fn settle(&self) {
        let state = self.state().unwrap_or_default();
        self.image.reset();
        if !state.image_version.is_empty() {
            self.image.with_label_values(&[&state.image_id, &state.image_version]).set(1);
        }
        self.wrong.set(state.wrong.len() as i64);
        self.rolled_back.set(i64::from(state.previous_failed.is_some()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_image_calls_itself_the_fleet_can_be_told() {
        assert_eq!(version("1.2-rc.1"), "1.2-rc.1");
        assert_eq!(version("1\u{1b}[2J\u{e9} 2"), "12J2");
        assert_eq!(version(&"9".repeat(1000)).len(), MOST_NAME);
    }
}
