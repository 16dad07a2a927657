//! `skerry policy bench`: a policy on fresh instances and on reused ones, and the built-in verdict.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use skerry_policy::rows::Inputs;
use skerry_policy::{Called, Cause, Limits, Manifest, Package, Surroundings, World, builtin};

use super::load::{Sandbox, Which};
use super::sample;
use crate::cli::print;
use crate::cli::units::bytes;

/// Different calls that are made in turn.
const DIFFERENT: usize = 64;
/// Calls ahead of those that are measured, at most.
const WARM_UP: u32 = 200;

#[derive(Debug, Args)]
pub(in crate::cli) struct Bench {
    #[command(flatten)]
    which: Which,
    /// Rows of each call
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=4096))]
    rows: u32,
    /// Calls that are measured, of each kind
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    calls: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What the calls of one kind came to.
#[derive(Debug, Default)]
struct Figures {
    p50: Duration,
    p99: Duration,
    /// Calls a second, one after the other.
    per_second: f64,
    fuel: u64,
    most_fuel: u64,
    most_memory: u64,
    /// Calls without a verdict, by cause.
    fallbacks: BTreeMap<&'static str, u64>,
}

/// One world of the policy.
struct Measured {
    world: World,
    limits: Limits,
    fresh: Figures,
    reused: Figures,
    builtin: Figures,
}

impl Bench {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let (file, package) = self.which.package()?;
        let measured = self.measure(&package).with_context(|| file.display().to_string())?;
        if self.json {
            print(&format!("{:#}\n", self.report(&package, &measured)))?;
        } else {
            print(&self.told(&package.manifest, &measured))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn measure(&self, package: &Package) -> anyhow::Result<Vec<Measured>> {
        let sandbox = Sandbox::new()?;
        let with = |reuse| sandbox.callables(package, &Manifest { reuse, ..package.manifest.clone() });
        let (fresh, reused) = (with(false)?, with(true)?);
        let surroundings = Surroundings::default();
        let mut measured = Vec::new();
        for ((world, fresh), (_, reused)) in fresh.iter().zip(&reused) {
            let inputs = sample::inputs(*world, self.rows, DIFFERENT);
            let policy = |callable: &skerry_policy::Callable| {
                figures(&inputs, self.calls, |inputs| Some(callable.call(inputs, &surroundings)))
            };
            measured.push(Measured {
                world: *world,
                limits: *fresh.limits(),
                fresh: policy(fresh)?,
                reused: policy(reused)?,
                builtin: figures(&inputs, self.calls, |inputs| {
                    std::hint::black_box(builtin::decide(inputs));
                    None
                })?,
            });
        }
        Ok(measured)
    }

    fn told(&self, manifest: &Manifest, measured: &[Measured]) -> String {
        let mut text = String::new();
        for one in measured {
            text.push_str(&format!(
                "{} {}, {}: {} calls of {} rows, one at a time\n{:<12}{:>12}{:>12}{:>14}\n",
                manifest.name,
                manifest.version,
                one.world,
                self.calls,
                self.rows,
                "",
                "p50 us",
                "p99 us",
                "a second"
            ));
            for (name, figures, used) in [
                ("fresh", &one.fresh, !manifest.reuse),
                ("reused", &one.reused, manifest.reuse),
                ("built-in", &one.builtin, false),
            ] {
                let mark = if used { "  by its manifest" } else { "" };
                text.push_str(&format!(
                    "{name:<12}{:>12.1}{:>12.1}{:>14.0}{mark}\n",
                    micros(figures.p50),
                    micros(figures.p99),
                    figures.per_second
                ));
            }
            let used = one.used(manifest);
            let fallbacks: Vec<String> =
                used.fallbacks.iter().map(|(cause, count)| format!("{count} by {cause}")).collect();
            let fallbacks = if fallbacks.is_empty() { "none".to_owned() } else { fallbacks.join(", ") };
            text.push_str(&format!(
                "fuel        {} at the median, {} at most, of {}\nmemory      {} at most, of {}\nfallbacks   {fallbacks}\n",
                used.fuel,
                used.most_fuel,
                one.limits.fuel,
                bytes(used.most_memory),
                bytes(one.limits.memory_bytes)
            ));
        }
        text
    }

    fn report(&self, package: &Package, measured: &[Measured]) -> Value {
        let manifest = &package.manifest;
        let worlds: Vec<Value> = measured
            .iter()
            .map(|one| {
                json!({
                    "world": one.world,
                    "fresh": one.fresh.report(),
                    "reused": one.reused.report(),
                    "builtin": one.builtin.latency(),
                    "budget": {
                        "time_us": micros(one.limits.time),
                        "fuel": one.limits.fuel,
                        "memory_bytes": one.limits.memory_bytes,
                    },
                })
            })
            .collect();
        json!({
            "name": manifest.name,
            "version": manifest.version.to_string(),
            "digest": package.digest_hex(),
            "reuse": manifest.reuse,
            "rows": self.rows,
            "calls": self.calls,
            "worlds": worlds,
        })
    }
}

impl Measured {
    /// The figures of how a node would run it.
    fn used(&self, manifest: &Manifest) -> &Figures {
        if manifest.reuse { &self.reused } else { &self.fresh }
    }
}

impl Figures {
    fn latency(&self) -> Value {
        json!({ "p50_us": micros(self.p50), "p99_us": micros(self.p99), "per_second": self.per_second })
    }

    fn report(&self) -> Value {
        let mut report = self.latency();
        report["fuel"] = json!(self.fuel);
        report["most_fuel"] = json!(self.most_fuel);
        report["most_memory_bytes"] = json!(self.most_memory);
        report["fallbacks"] = json!(self.fallbacks);
        report
    }
}

/// Makes `calls` calls. `call` gives back what came of a policy's call, for its figures.
///
/// # Errors
/// When no call returned: then there is nothing to measure, but something to mend.
fn figures(
    inputs: &[Inputs],
    calls: u32,
    mut call: impl FnMut(&Inputs) -> Option<Called>,
) -> anyhow::Result<Figures> {
    for inputs in inputs.iter().cycle().take(WARM_UP.min(calls) as usize) {
        call(inputs);
    }
    let mut figures = Figures::default();
    let (mut times, mut fuels) = (Vec::with_capacity(calls as usize), Vec::new());
    let (mut returned, mut error) = (false, None);
    let started = Instant::now();
    for inputs in inputs.iter().cycle().take(calls as usize) {
        let begun = Instant::now();
        let called = call(inputs);
        times.push(begun.elapsed());
        let Some(called) = called else {
            returned = true;
            continue;
        };
        fuels.push(called.fuel);
        figures.most_memory = figures.most_memory.max(called.memory_bytes as u64);
        match called.result {
            Ok(_) => returned = true,
            Err(cause) => {
                returned |= matches!(cause, Cause::Abstain | Cause::Invalid);
                *figures.fallbacks.entry(cause.name()).or_default() += 1;
                error = error.or(called.error);
            }
        }
    }
    figures.per_second = f64::from(calls) / started.elapsed().as_secs_f64().max(1e-9);
    if !returned {
        let causes: Vec<&str> = figures.fallbacks.keys().copied().collect();
        let error = error.unwrap_or_default();
        bail!("no call gave a verdict ({}); `skerry policy test` shows more: {error}", causes.join(", "));
    }
    times.sort_unstable();
    fuels.sort_unstable();
    figures.p50 = at(&times, 50).unwrap_or_default();
    figures.p99 = at(&times, 99).unwrap_or_default();
    figures.fuel = at(&fuels, 50).unwrap_or_default();
    figures.most_fuel = fuels.last().copied().unwrap_or_default();
    Ok(figures)
}

/// The value that `percent` of a hundred are not above.
pub(super) fn at<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

pub(super) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(result: Result<skerry_policy::rows::Answer, Cause>, fuel: u64) -> Called {
        Called {
            result,
            error: Some("wasm trap".into()),
            fuel,
            took: Duration::ZERO,
            memory_bytes: 3 << 16,
            lines: Vec::new(),
            counts: Vec::new(),
            lookups: Vec::new(),
        }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!([at(&hundred, 50), at(&hundred, 99), at(&hundred, 100)], [Some(50), Some(99), Some(100)]);
        assert_eq!([at(&[7], 50), at(&[7], 99), at(&[], 99)], [Some(7), Some(7), None]);
    }

    #[test]
    fn fallbacks_are_counted_and_no_verdict_at_all_is_an_error() {
        let inputs = sample::inputs(World::RegionRouter, 3, 4);
        let mut number = 0;
        let some = figures(&inputs, 1000, |_| {
            number += 1;
            let result = if number % 10 == 0 { Err(Cause::Trap) } else { Err(Cause::Abstain) };
            Some(called(result, number))
        });
        let some = some.unwrap();
        assert_eq!(some.fallbacks, BTreeMap::from([("abstain", 900), ("trap", 100)]));
        assert_eq!((some.most_fuel, some.fuel, some.most_memory), (1200, 700, 3 << 16));
        let none = figures(&inputs, 10, |_| Some(called(Err(Cause::Trap), 1))).unwrap_err().to_string();
        assert!(none.contains("(trap)") && none.ends_with("wasm trap"), "{none}");
    }

    #[test]
    fn the_screen_says_how_a_node_would_run_it() {
        let manifest = "name = \"near\"\nversion = \"1.0.0\"\nworlds = [\"region-router\"]\nreuse = true\n";
        let manifest = Manifest::parse(manifest).unwrap();
        let figures = |p50| Figures { p50: Duration::from_micros(p50), ..Figures::default() };
        let limits =
            Limits { time: Duration::from_millis(5), memory_bytes: 1 << 24, fuel: 99, calls: 1, reuses: 1 };
        let measured = [Measured {
            world: World::RegionRouter,
            limits,
            fresh: figures(30),
            reused: Figures { most_memory: 1 << 20, ..figures(9) },
            builtin: figures(2),
        }];
        let words = <Words as clap::Parser>::try_parse_from(["bench"]).unwrap();
        let text = words.bench.told(&manifest, &measured);
        assert!(text.starts_with("near 1.0.0, region-router: 20000 calls of 60 rows"), "{text}");
        assert!(
            text.lines().any(|line| line.starts_with("reused") && line.ends_with("by its manifest")),
            "{text}"
        );
        assert!(text.contains("1.0 MiB at most, of 16.0 MiB") && text.contains("fallbacks   none"), "{text}");
    }

    #[derive(clap::Parser)]
    struct Words {
        #[command(flatten)]
        bench: Bench,
    }
}
