//! `skerry status`: one screen.

mod roles;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::Value;

use super::client::{Client, Target};
use super::print;
use super::units::{bar, bytes, cut, seconds};

/// Sites that are shown; more do not fit on a screen.
const SITES: usize = 16;

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    target: Target,
    /// Print the node's answer as JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let status = Client::new(&self.target)?.get("/status")?;
        if self.json {
            print(&format!("{status:#}\n"))?;
        } else {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            print(&screen(&status, now))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What the node told of itself; a field that is missing (another version's) is shown as `?` or 0.
fn screen(status: &Value, now: u64) -> String {
    let text = |path: &str| status.pointer(path).and_then(Value::as_str).unwrap_or("?");
    let number = |path: &str| status.pointer(path).map_or(0, whole);
    let mut lines = Vec::new();

    let started = status.pointer("/started").map(whole);
    let up = started.map_or("?".to_owned(), |started| seconds(now.saturating_sub(started)));
    lines.push(cut(
        &format!(
            "{}  {} for {up}  (skerry {}, pid {})",
            text("/name"),
            text("/phase"),
            text("/version"),
            number("/pid")
        ),
        110,
    ));
    lines.push(format!("listening  {}", cut(&listeners(&status["listeners"]), 100)));
    lines.push(String::new());

    let (requests, hits) = (number("/cache/requests"), number("/cache/hits"));
    let measured = if requests == 0 { 0.0 } else { hits as f64 / requests as f64 };
    let ratio = status.pointer("/cache/hit_ratio").and_then(Value::as_f64).unwrap_or(measured);
    lines.push(format!("requests   {requests}, {:.1} % of them hits", 100.0 * ratio));
    let (to_clients, from_origins) = (number("/cache/client_bytes"), number("/cache/origin_bytes"));
    lines.push(format!("traffic    {} to clients, {} from origins", bytes(to_clients), bytes(from_origins)));
    lines.push(String::new());
    lines.extend(store_lines(&status["store"]));
    lines.extend(roles::lines(status));
    lines.push(String::new());
    lines.extend(sites(&status["cache"]["sites"]));
    lines.join("\n") + "\n"
}

/// The store's share of the screen; `skerry store stats` prints the same.
pub(super) fn store_lines(stats: &Value) -> Vec<String> {
    let number = |key: &str| stats.get(key).map_or(0, whole);
    let filled = |name: &str, used: u64, all: u64| match all {
        // Read offline, a store does not know its quotas.
        0 => format!("{name:<10} {}", bytes(used)),
        all => format!("{name:<10} {}  {} of {}", bar(used, all), bytes(used), bytes(all)),
    };
    let (cached, pinned) = (number("cached_bytes"), number("pinned_bytes"));
    let mut lines = vec![
        filled("disk", cached + pinned, number("capacity_bytes")),
        filled("  pinned", pinned, number("pinned_quota_bytes")),
        filled("memory", number("memory_bytes"), number("memory_tier_bytes")),
        format!(
            "holding    about {} objects; {} chunks in memory; {} chunks evicted",
            number("objects"),
            number("memory_chunks"),
            number("evictions")
        ),
    ];
    let mut troubles = Vec::new();
    if stats.get("refusing_writes").and_then(Value::as_bool).unwrap_or(false) {
        troubles.push("REFUSES WRITES: disk full or only pins left".to_owned());
    }
    for (key, what) in [("verify_failures", "chunks failed their hash"), ("write_failures", "writes refused")]
    {
        if number(key) > 0 {
            troubles.push(format!("{} {what}", number(key)));
        }
    }
    let troubles = if troubles.is_empty() { "none".to_owned() } else { troubles.join("; ") };
    lines.push(format!("trouble    {troubles}"));
    lines
}

fn listeners(listeners: &Value) -> String {
    let mut all = Vec::new();
    for name in ["public", "tls", "admin", "admin_tls", "peers", "tracker"] {
        let one = listeners[name].as_str().into_iter();
        let several = listeners[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        all.extend(one.chain(several).map(|address| format!("{address} ({name})")));
    }
    if all.is_empty() { "?".into() } else { all.join("  ") }
}

fn sites(sites: &Value) -> Vec<String> {
    let Some(sites) = sites.as_array() else { return Vec::new() };
    let row = |site: &str, origin: &str, health: &str, running: &str| {
        format!("{:<24} {:<52} {health:<10} {running:>9}", cut(site, 24), cut(origin, 52))
    };
    let mut lines = vec![row("SITE", "ORIGIN", "HEALTH", "IN FLIGHT")];
    for site in sites.iter().take(SITES) {
        let text = |key: &str| site.get(key).and_then(Value::as_str).unwrap_or("?");
        let health = match site.get("healthy").and_then(Value::as_bool) {
            Some(true) => "healthy",
            Some(false) => "FAILING",
            None => "?",
        };
        let running = site.get("in_flight").map_or("?".to_owned(), |count| whole(count).to_string());
        lines.push(row(text("site"), text("origin"), health, &running));
    }
    if sites.len() > SITES {
        lines.push(format!("and {} more; --json names them all", sites.len() - SITES));
    }
    lines
}

/// A JSON number as a count.
fn whole(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| value.as_f64().unwrap_or(0.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(screen: &str) {
        assert!((3..=40).contains(&screen.lines().count()), "{screen}");
        assert!(screen.lines().all(|line| line.chars().count() <= 120), "{screen}");
    }

    #[test]
    fn a_busy_node_fits_on_one_screen() {
        let sites: Vec<Value> = (0..100)
            .map(|n| {
                let origin = format!("https://{}.example.org/", "x".repeat(n));
                serde_json::json!({ "site": format!("site-{n}"), "origin": origin, "healthy": n % 2 == 0, "in_flight": n })
            })
            .collect();
        let status = serde_json::json!({
            "name": "edge", "version": "0.1.0", "pid": 7, "started": 1000, "phase": "running",
            "listeners": { "public": ["127.0.0.1:8080"], "tls": [], "admin": "127.0.0.1:9180" },
            "cache": { "requests": 200, "hits": 150, "client_bytes": 1u64 << 40, "origin_bytes": 3, "sites": sites },
            "store": { "capacity_bytes": 1u64 << 33, "cached_bytes": 1u64 << 32, "verify_failures": 2 },
        });
        let screen = screen(&status, 1061);
        fits(&screen);
        for part in [
            "edge  running for 1 min 1 s",
            "127.0.0.1:8080 (public)",
            "75.0 % of them hits",
            "4.0 GiB of 8.0 GiB",
            "2 chunks failed",
            "FAILING",
            "and 84 more",
        ] {
            assert!(screen.contains(part), "no {part} in\n{screen}");
        }
    }

    #[test]
    fn a_node_that_tells_nothing_is_shown_too() {
        fits(&screen(&serde_json::json!({}), 5));
        fits(&screen(&Value::Null, 5));
    }
}
