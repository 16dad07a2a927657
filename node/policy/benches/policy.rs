//! What a policy costs: a verdict, reused and fresh, beside the built-in one; verdicts a second;
//! memory of idle instances; and a change of versions under full load. Prints a table, and JSON to
//! `bench/policy.json` in cargo's target folder.
//!
//! Wants `SKERRY_POLICY_MODULES`, as `make bench` sets it.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use prometheus::Registry;
use serde_json::json;
use skerry_policy::manifest::World;
use skerry_policy::rows::{Inputs, RouteCandidate, RouteRequest};
use skerry_policy::{
    Callable, Compiler, Limits, Package, Policies, PolicyConfig, Runtime, Surroundings, builtin, component,
    package,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ROWS: usize = 60;
const CALLS: usize = 50_000;
const IDLE: usize = 1000;

/// A figure, and what it is to be.
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    /// At most, or at least.
    target: Option<(bool, f64)>,
}

impl Figure {
    fn most(name: &'static str, value: f64, unit: &'static str, target: f64) -> Self {
        Self { name, value, unit, target: Some((true, target)) }
    }

    fn least(name: &'static str, value: f64, unit: &'static str, target: f64) -> Self {
        Self { name, value, unit, target: Some((false, target)) }
    }

    fn plain(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, target: None }
    }

    fn reached(&self) -> Option<bool> {
        self.target.map(|(most, target)| if most { self.value <= target } else { self.value >= target })
    }
}

/// A day's requests: links that are used more and less, clients from four regions.
fn asked(number: u64) -> Inputs {
    let mut random = fastrand::Rng::with_seed(number);
    let candidates = (0..ROWS).map(|row| RouteCandidate {
        node: (row / 2) as u32,
        region: random.u32(1..5),
        isp: random.u32(1..4),
        distance_us: random.u32(500..60_000),
        used_kbps: random.u32(0..9_000_000),
        capacity_kbps: 10_000_000,
        health: 1000,
        held: random.u32(0..1001),
        chosen_ms_ago: u32::MAX,
    });
    let candidates = candidates.collect();
    let request = RouteRequest {
        client: random.u64(..),
        region: random.u32(1..5),
        isp: random.u32(1..4),
        resource_hash: random.u64(..),
        size_bytes: 1 << 30,
        seed: random.u64(..),
    };
    Inputs::RegionRouter { request, candidates }
}

fn packed(version: &str, reuse: bool) -> Result<Vec<u8>> {
    let folder = std::env::var("SKERRY_POLICY_MODULES").map_err(|_| "SKERRY_POLICY_MODULES is not set")?;
    let module = std::fs::read(PathBuf::from(folder).join("skerry_region_router.wasm"))?;
    let manifest =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../plugins/region-router/manifest.toml");
    let manifest = std::fs::read_to_string(manifest)?;
    let manifest = manifest.replace("version = \"1.0.0\"", &format!("version = \"{version}\""));
    let manifest = manifest.replace("reuse = true", &format!("reuse = {reuse}"));
    Ok(package::pack(&component::of_module(&module)?, &manifest)?)
}

fn load(config: &PolicyConfig, reuse: bool) -> Result<Callable> {
    let package = Package::parse(packed("1.0.0", reuse)?)?;
    let runtime = Runtime::new(config.room())?;
    let folder = tempfile::tempdir()?;
    let compiler = Compiler::new(None, folder.path(), Duration::from_secs(60), 1 << 30)?;
    let component = compiler.component(&runtime, &package)?;
    let limits = Limits { reuses: u32::MAX, ..config.limits(World::RegionRouter) };
    Ok(Callable::new(&runtime, &component, &package.manifest, World::RegionRouter, limits)?)
}

/// Times of calls in microseconds, sorted, and how many a second.
fn time(mut call: impl FnMut(&Inputs)) -> (Vec<f64>, f64) {
    let inputs: Vec<Inputs> = (0..512).map(asked).collect();
    inputs.iter().cycle().take(2000).for_each(&mut call);
    let began = Instant::now();
    let mut times: Vec<f64> = Vec::with_capacity(CALLS);
    for inputs in inputs.iter().cycle().take(CALLS) {
        let began = Instant::now();
        call(inputs);
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let rate = CALLS as f64 / began.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    (times, rate)
}

fn at(times: &[f64], permille: usize) -> f64 {
    times[(times.len() * permille / 1000).min(times.len() - 1)]
}

/// Memory of this process that nobody else has, bytes.
fn own_memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0)
    };
    Ok((field("Private_Dirty:") + field("Private_Clean:")) * 1024)
}

fn verdicts(figures: &mut Vec<Figure>) -> Result<()> {
    let config = PolicyConfig::default();
    let (times, _) = time(|inputs| drop(builtin::decide(inputs)));
    figures.push(Figure::plain("built-in verdict, p50", at(&times, 500), "us"));
    let reused = load(&config, true)?;
    let mut fuel = 0;
    let (times, rate) = time(|inputs| {
        let called = reused.call(inputs, &Surroundings::default());
        assert!(called.result.is_ok(), "{called:?}");
        fuel = called.fuel;
    });
    figures.push(Figure::most("reused instance, p50", at(&times, 500), "us", 15.0));
    figures.push(Figure::most("reused instance, p99", at(&times, 990), "us", 60.0));
    figures.push(Figure::least("verdicts a second on one core", rate, "", 20_000.0));
    figures.push(Figure::plain("fuel of a verdict", fuel as f64, ""));
    let fresh = load(&config, false)?;
    let (times, _) = time(|inputs| drop(fresh.call(inputs, &Surroundings::default())));
    figures.push(Figure::most("fresh instance, p50", at(&times, 500), "us", 80.0));
    figures.push(Figure::plain("fresh instance, p99", at(&times, 990), "us"));
    Ok(())
}

fn memory(figures: &mut Vec<Figure>) -> Result<()> {
    let config = PolicyConfig { instances: IDLE as u32 + 8, ..PolicyConfig::default() };
    let policy = load(&config, true)?;
    let inputs = asked(1);
    policy.call(&inputs, &Surroundings::default());
    let before = own_memory()?;
    policy.warm_up(IDLE).map_err(|cause| format!("no {IDLE} instances: {cause}"))?;
    let idle = (own_memory()? - before) as f64 / (IDLE - 1) as f64 / 1024.0;
    figures.push(Figure::most("an idle instance", idle, "KiB", 64.0));
    Ok(())
}

/// Two callers at full speed while a new version is taken and goes through all of its stages.
fn change(figures: &mut Vec<Figure>) -> Result<()> {
    let mut config = PolicyConfig { allow_unsigned: true, ..PolicyConfig::default() };
    // What a loaded machine does to single calls is not what is looked at.
    config.rollout.max_p99_permille = 1000;
    config.rollout.max_fallback_permille = 1000;
    let folder = tempfile::tempdir()?;
    let policies = Policies::new(config, folder.path(), None, &Registry::new())?;
    let through = |file| -> Result<()> {
        policies.take(file)?;
        for _ in 0..4 {
            policies.promote(World::RegionRouter);
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    };
    through(packed("1.0.0", true)?)?;
    let (ended, changing) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..2)
        .map(|caller| {
            let (policies, ended, changing) = (policies.clone(), ended.clone(), changing.clone());
            std::thread::spawn(move || {
                let inputs: Vec<Inputs> = (0..512).map(|number| asked(number + caller * 1000)).collect();
                let (mut calm, mut busy, mut lost) = (Vec::new(), Vec::new(), 0);
                for (number, inputs) in inputs.iter().cycle().enumerate() {
                    if ended.load(Relaxed) {
                        break;
                    }
                    let began = Instant::now();
                    let decided = policies.decide(inputs, number as u64);
                    let took = began.elapsed().as_secs_f64() * 1e6;
                    if changing.load(Relaxed) {
                        busy.push(took)
                    } else {
                        calm.push(took)
                    }
                    lost += u64::from(decided.policy.is_none());
                    if lost > 0 && lost < 4 && decided.policy.is_none() {
                        eprintln!("no policy decided: {:?}", decided.cause);
                    }
                }
                (calm, busy, lost)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    changing.store(true, Relaxed);
    for version in ["1.0.1", "1.0.2", "1.0.3"] {
        through(packed(version, true)?)?;
    }
    ended.store(true, Relaxed);
    let (mut calm, mut busy, mut lost) = (Vec::new(), Vec::new(), 0);
    for caller in callers {
        let (one, other, without) = caller.join().map_err(|_| "a caller panicked")?;
        calm.extend(one);
        busy.extend(other);
        lost += without;
    }
    calm.sort_by(f64::total_cmp);
    busy.sort_by(f64::total_cmp);
    figures.push(Figure::plain("calls while versions change", busy.len() as f64, ""));
    figures.push(Figure::most("calls that no policy decided", lost as f64, "", 0.0));
    figures.push(Figure::plain("p99 at full load, before", at(&calm, 990), "us"));
    figures.push(Figure::most("p99 while versions change", at(&busy, 990), "us", 2000.0));
    figures.push(Figure::plain("slowest while versions change", at(&busy, 1000), "us"));
    Ok(())
}

fn main() -> Result<()> {
    let mut figures = Vec::new();
    verdicts(&mut figures)?;
    memory(&mut figures)?;
    change(&mut figures)?;
    println!("\n{ROWS} candidates, the default region router\n");
    println!("{:<34}{:>12} {:<6}{:>10}  reached", "figure", "measured", "", "target");
    for figure in &figures {
        let target = figure.target.map_or_else(String::new, |(most, target)| {
            format!("{} {target}", if most { "<=" } else { ">=" })
        });
        let reached = figure.reached().map_or("", |reached| if reached { "yes" } else { "NO" });
        println!("{:<34}{:>12.1} {:<6}{target:>10}  {reached}", figure.name, figure.value, figure.unit);
    }
    let report: Vec<_> = figures
        .iter()
        .map(|figure| json!({ "figure": figure.name, "value": figure.value, "unit": figure.unit, "reached": figure.reached() }))
        .collect();
    let this = std::env::current_exe()?;
    let target = this.ancestors().nth(3).ok_or("this program is in no target folder")?;
    std::fs::create_dir_all(target.join("bench"))?;
    std::fs::write(target.join("bench/policy.json"), serde_json::to_vec_pretty(&report)?)?;
    Ok(())
}
