//! `skerry purge`.

use std::process::ExitCode;

use clap::Args;

use super::client::{Client, Target};
use super::print;

#[derive(Debug, Args)]
pub(super) struct Purge {
    #[command(flatten)]
    what: What,
    /// Keep it as stale: it is validated with the origin before it is served again
    #[arg(long)]
    soft: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// One address, with all its variants
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Every address that begins with this
    #[arg(long, value_name = "URL")]
    prefix: Option<String>,
    /// Everything with this tag (`Surrogate-Key`, `Cache-Groups`)
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
}

impl What {
    /// The one that was given, by its name.
    fn named(&self) -> Option<(&'static str, &str)> {
        let all = [("url", &self.url), ("prefix", &self.prefix), ("tag", &self.tag)];
        all.into_iter().find_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

impl Purge {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        if let Some((name, value)) = self.what.named() {
            let body = serde_json::json!({ name: value, "soft": self.soft });
            Client::new(&self.target)?.post("/purge", &body)?;
            let done = if self.soft { "marked stale" } else { "purged" };
            print(&format!("{done}: {name} {value}\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
