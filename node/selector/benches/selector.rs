//! What the selector costs: a million prefixes from their file to their answers, and routed answers a
//! second, from the request to the JSON. Prints a table, and JSON to `bench/selector.json` in cargo's
//! target folder.
//!
//! With `SKERRY_POLICY_MODULES`, as `make bench` sets it, answers of the default policy as a component
//! are measured beside those of the built-in verdict.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::error::Error;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::Registry;
use serde_json::json;
use skerry_core::Body;
use skerry_core::api::{Api, Call};
use skerry_policy::manifest::World;
use skerry_policy::{Policies, PolicyConfig, component, package};
use skerry_registry::fleet::{Fleet, Holding, Link, Node};
use skerry_registry::prefix::Prefix;
use skerry_selector::zone::{Kind, Zones};
use skerry_selector::{Parts, Selector, SelectorConfig};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PREFIXES: usize = 1_000_000;
const REGIONS: usize = 20;
const NODES: usize = 500;
const LOOKUPS: usize = 2_000_000;
const ANSWERS: usize = 100_000;

/// A figure, and what it is to be.
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// At most, or at least.
    target: Option<(bool, f64)>,
}

impl Figure {
    fn new(name: &str, value: f64, unit: &'static str, target: Option<(bool, f64)>) -> Self {
        Self { name: name.to_owned(), value, unit, target }
    }

    fn reached(&self) -> Option<bool> {
        self.target.map(|(most, target)| if most { self.value <= target } else { self.value >= target })
    }
}

fn most(target: f64) -> Option<(bool, f64)> {
    Some((true, target))
}

fn least(target: f64) -> Option<(bool, f64)> {
    Some((false, target))
}

/// Three of four of IPv4, nested as in routing tables.
fn prefix(random: &mut fastrand::Rng) -> Prefix {
    let prefix = if random.u8(..4) > 0 {
        Prefix::of(IpAddr::V4(Ipv4Addr::from_bits(random.u32(..))), random.u8(12..=28))
    } else {
        Prefix::of(IpAddr::V6(Ipv6Addr::from_bits((random.u128(..) >> 3) | (1 << 125))), random.u8(28..=56))
    };
    prefix.expect("the lengths are within those of the families")
}

fn write_zones(path: &Path) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    write!(out, "{{\"coverageZones\": {{")?;
    for region in 0..REGIONS {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for _ in 0..PREFIXES / REGIONS {
            let prefix = prefix(&mut random);
            let list = if prefix.address().is_ipv4() { &mut v4 } else { &mut v6 };
            list.push(format!("\"{prefix}\""));
        }
        let comma = if region == 0 { "" } else { "," };
        let (v4, v6) = (v4.join(","), v6.join(","));
        write!(out, "{comma}\"region-{region}\": {{\"network\": [{v4}], \"network6\": [{v6}]}}")?;
    }
    write!(out, "}}}}")?;
    out.flush()?;
    Ok(())
}

/// A field of `/proc/self/status`, MiB.
fn memory(field: &str) -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with(field)).ok_or("no such field")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("no figure")?.parse()?;
    Ok(kib / 1024.0)
}

fn prefixes(path: &Path, figures: &mut Vec<Figure>) -> Result<()> {
    // The highest so far begins anew.
    std::fs::write("/proc/self/clear_refs", "5")?;
    let before = memory("VmRSS:")?;
    let began = Instant::now();
    let zones = Zones::read(path, Kind::Coverage)?;
    figures.push(Figure::new("a million prefixes loaded", began.elapsed().as_secs_f64(), "s", most(2.0)));
    figures.push(Figure::new("memory while loading", memory("VmHWM:")? - before, "MiB", most(190.0)));
    figures.push(Figure::new("memory of the trie", zones.bytes() as f64 / (1 << 20) as f64, "MiB", None));
    let mut random = fastrand::Rng::with_seed(2);
    for (name, v4) in [("a lookup, IPv4", true), ("a lookup, IPv6", false)] {
        let address = |random: &mut fastrand::Rng| match v4 {
            true => IpAddr::V4(Ipv4Addr::from_bits(random.u32(..))),
            false => IpAddr::V6(Ipv6Addr::from_bits((random.u128(..) >> 3) | (1 << 125))),
        };
        let addresses: Vec<IpAddr> = (0..LOOKUPS).map(|_| address(&mut random)).collect();
        let began = Instant::now();
        let found = addresses.iter().filter(|address| zones.find(**address).is_some()).count();
        let each = began.elapsed().as_nanos() as f64 / LOOKUPS as f64;
        figures.push(Figure::new(name, each, "ns", most(1000.0)));
        assert!(found > 0, "no address was found");
    }
    Ok(())
}

/// Nodes in all regions, each with a link for anybody and one for an operator.
fn fleet(resource: &str) -> Result<Arc<Fleet>> {
    let mut random = fastrand::Rng::with_seed(3);
    let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let nodes = (0..NODES).map(|number| {
        let link = |name: &str, asns: Vec<u32>, used_kbps: u64| Link {
            name: name.to_owned(),
            url: format!("https://{name}.node-{number}.example"),
            isp: "Example".to_owned(),
            asns,
            capacity_kbps: 10_000_000,
            used_kbps,
            healthy: true,
            ..Link::default()
        };
        let used = [random.u64(0..9_000_000), random.u64(0..9_000_000)];
        let links = vec![link("any", vec![], used[0]), link("own", vec![64500 + number as u32 % 5], used[1])];
        Node {
            id: format!("node-{number}"),
            region: format!("region-{}", number % REGIONS),
            roles: vec!["cache".to_owned()],
            links,
            seen_ms: now_ms,
            interval_seconds: 3600,
            ..Node::default()
        }
    });
    let fleet = Arc::new(Fleet::new());
    fleet.hear(nodes);
    let holding = Holding {
        resource: resource.to_owned(),
        length: 1 << 30,
        held_bytes: 1 << 30,
        complete: true,
        ..Holding::default()
    };
    for number in (0..NODES).step_by(10) {
        fleet.holds(&format!("node-{number}"), std::slice::from_ref(&holding));
    }
    Ok(fleet)
}

/// The default policy as a component, deciding for everybody.
fn take_policy(policies: &Policies, modules: &str) -> Result<()> {
    let module = std::fs::read(PathBuf::from(modules).join("skerry_region_router.wasm"))?;
    let manifest =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../plugins/region-router/manifest.toml");
    let manifest = std::fs::read_to_string(manifest)?;
    policies.take(package::pack(&component::of_module(&module)?, &manifest)?)?;
    for _ in 0..4 {
        policies.promote(World::RegionRouter);
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn answers(name: &str, zones: &Path, modules: Option<&str>, figures: &mut Vec<Figure>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let registry = Registry::new();
    let config = PolicyConfig { allow_unsigned: true, ..PolicyConfig::default() };
    let policies = Policies::new(config, folder.path(), None, &registry)?;
    if let Some(modules) = modules {
        take_policy(&policies, modules)?;
    }
    let resource = "5e".repeat(32);
    let config = SelectorConfig {
        coverage_zone_file: zones.to_owned(),
        trusted: vec!["127.0.0.0/8".parse()?],
        trackers: vec!["udp://tracker.example:6969".to_owned()],
        ..SelectorConfig::default()
    };
    let fleet = fleet(&resource)?;
    let selector =
        Selector::new(Parts { config, node: "self".into(), fleet, policies, registry: &registry })?;
    let mut random = fastrand::Rng::with_seed(4);
    let targets: Vec<String> = (0..10_000)
        .map(|number| {
            let client = Ipv4Addr::from_bits(random.u32(..));
            let resource = if number % 2 == 0 { format!("&resource={resource}") } else { String::new() };
            format!("/.skerry/v1/route?client={client}{resource}")
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut times: Vec<f64> = Vec::with_capacity(ANSWERS);
    let round = |count: usize, times: &mut Vec<f64>| -> Result<()> {
        for target in targets.iter().cycle().take(count) {
            let began = Instant::now();
            let request = http::Request::builder().uri(target.as_str()).body(Body::Empty)?;
            let call = Call {
                request,
                client: "127.0.0.1:4711".parse()?,
                via: "127.0.0.1:4711".parse()?,
                secure: false,
                certificate: None,
            };
            let response = runtime.block_on(selector.clone().answer(call));
            times.push(began.elapsed().as_secs_f64() * 1e6);
            assert_eq!(response.status(), 200);
        }
        Ok(())
    };
    round(5000, &mut times)?;
    times.clear();
    let began = Instant::now();
    round(ANSWERS, &mut times)?;
    let rate = ANSWERS as f64 / began.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let at = |permille: usize| times[(times.len() * permille / 1000).min(times.len() - 1)];
    figures.push(Figure::new(&format!("answers a second, {name}"), rate, "", least(20_000.0)));
    figures.push(Figure::new(&format!("an answer, p50, {name}"), at(500), "us", None));
    figures.push(Figure::new(&format!("an answer, p99, {name}"), at(990), "us", most(1000.0)));
    Ok(())
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let zones = folder.path().join("zones.json");
    write_zones(&zones)?;
    let mut figures = Vec::new();
    prefixes(&zones, &mut figures)?;
    answers("built-in verdict", &zones, None, &mut figures)?;
    if let Ok(modules) = std::env::var("SKERRY_POLICY_MODULES") {
        answers("default policy", &zones, Some(&modules), &mut figures)?;
    }
    println!("\n{PREFIXES} prefixes, {NODES} nodes with two links in {REGIONS} regions\n");
    println!("{:<44}{:>12} {:<6}{:>10}  reached", "figure", "measured", "", "target");
    for figure in &figures {
        let target = figure.target.map_or_else(String::new, |(most, target)| {
            format!("{} {target}", if most { "<=" } else { ">=" })
        });
        let reached = figure.reached().map_or("", |reached| if reached { "yes" } else { "NO" });
        println!("{:<44}{:>12.1} {:<6}{target:>10}  {reached}", figure.name, figure.value, figure.unit);
    }
    let report: Vec<_> = figures
        .iter()
        .map(|figure| json!({ "figure": figure.name, "value": figure.value, "unit": figure.unit, "reached": figure.reached() }))
        .collect();
    let this = std::env::current_exe()?;
    let target = this.ancestors().nth(3).ok_or("this program is in no target folder")?;
    std::fs::create_dir_all(target.join("bench"))?;
    std::fs::write(target.join("bench/selector.json"), serde_json::to_vec_pretty(&report)?)?;
    Ok(())
}
