//! `skerry policy test`: the test vectors in the sandbox, with what went wrong and where.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use skerry_policy::call::Level;
use skerry_policy::manifest::Vector;
use skerry_policy::rows::Answer;
use skerry_policy::{Callable, Called, Cause, Limits, Package, World, vectors};

use super::load::{Sandbox, Which};
use crate::cli::print;
use crate::cli::units::bytes;

/// Calls of a vector that runs out of time: on a busy machine that need not be the policy's doing.
const TRIES: u32 = 3;
/// What wasmtime adds to a backtrace; it is of no use here.
const HINT: &str = "note: using the `WASMTIME";

#[derive(Debug, Args)]
pub(in crate::cli) struct Test {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A vector, and what the policy said.
struct Ran<'a> {
    vector: &'a Vector,
    limits: Limits,
    called: Called,
}

impl Test {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let (file, package) = self.which.package()?;
        let callables = Sandbox::new()?.callables(&package, &package.manifest);
        let callables = callables.with_context(|| file.display().to_string())?;
        let ran: Vec<Ran> = package.manifest.vectors.iter().filter_map(|one| run(&callables, one)).collect();
        let failed = ran.iter().filter(|one| !one.held()).count();
        if self.json {
            print(&format!("{:#}\n", report(&package, &ran)))?;
        } else {
            print(&told(&package, &ran))?;
        }
        Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn run<'a>(callables: &[(World, Callable)], vector: &'a Vector) -> Option<Ran<'a>> {
    let (_, callable) = callables.iter().find(|(world, _)| *world == vector.inputs.world())?;
    let mut called = vectors::call(callable, vector);
    for _ in 1..TRIES {
        if called.result != Err(Cause::Deadline) {
            break;
        }
        called = vectors::call(callable, vector);
    }
    Some(Ran { vector, limits: *callable.limits(), called })
}

impl Ran<'_> {
    fn held(&self) -> bool {
        vectors::miss(self.vector, &self.called).is_none()
    }

    /// What came, in words.
    fn got(&self) -> String {
        let limits = &self.limits;
        match &self.called.result {
            Ok(answer) => answer.to_string(),
            Err(Cause::Abstain) => Answer::Abstain.to_string(),
            Err(Cause::Invalid) => "invalid rows".to_owned(),
            Err(Cause::BadIndex) => {
                "an answer that does not count: a row that is not there, or twice, or a number out of range"
                    .to_owned()
            }
            Err(Cause::Deadline) => format!("nothing within {} ms", limits.time.as_millis()),
            Err(Cause::Fuel) => format!("nothing within {} of fuel", limits.fuel),
            Err(Cause::Memory) => format!("nothing within {} of memory", bytes(limits.memory_bytes)),
            Err(cause) => format!("nothing: {cause}"),
        }
    }

    /// Lines that the policy wrote, with their level.
    fn lines(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.called.lines.iter().map(|(level, line)| {
            let level = match level {
                Level::Debug => "debug",
                Level::Info => "info",
                Level::Warn => "warn",
            };
            // A panic says where on one line and why on the next.
            (level, plain(&line.replace('\n', " ")))
        })
    }

    /// Why the call did not return, with the functions that it was in: the author's, since what the
    /// standard library does on the way to a trap says nothing.
    fn error(&self) -> Vec<String> {
        let lines = self.called.error.iter().flat_map(|error| error.lines());
        let mut told: Vec<String> = Vec::new();
        for line in lines.filter(|line| !line.trim().is_empty() && !line.starts_with(HINT)) {
            if line.trim_start().starts_with("at /rustc/") {
                told.pop();
            } else {
                told.push(plain(&readable(line)));
            }
        }
        told
    }
}

/// A line of a backtrace with the function's name as it is written.
fn readable(line: &str) -> String {
    let Some((place, symbol)) = line.split_once(" - ") else { return line.to_owned() };
    match rustc_demangle::try_demangle(symbol.rsplit('!').next().unwrap_or(symbol)) {
        Ok(name) => format!("{place} - {name:#}"),
        Err(_) => line.to_owned(),
    }
}

/// Somebody's text on a terminal: without control characters.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn told(package: &Package, ran: &[Ran]) -> String {
    let manifest = &package.manifest;
    if ran.is_empty() {
        return format!(
            "{} {} has no test vectors; add `[[vectors]]` to its manifest\n",
            manifest.name, manifest.version
        );
    }
    let mut text = String::new();
    for one in ran {
        let word = if one.held() { "ok  " } else { "FAIL" };
        let took = one.called.took.as_secs_f64() * 1000.0;
        text.push_str(&format!("{word}  {}  ({} of fuel, {took:.3} ms)\n", one.vector.name, one.called.fuel));
        if !one.held() {
            text.push_str(&format!("      expected  {}\n", one.vector.expected));
            text.push_str(&format!("      got       {}\n", one.got()));
        }
        for (level, line) in one.lines() {
            text.push_str(&format!("      {level:<8}  {line}\n"));
        }
        for line in one.error() {
            text.push_str(&format!("      {line}\n"));
        }
    }
    let held = ran.iter().filter(|one| one.held()).count();
    text.push_str(&format!("{} {}: {held} of {} hold\n", manifest.name, manifest.version, ran.len()));
    text
}

fn report(package: &Package, ran: &[Ran]) -> Value {
    let manifest = &package.manifest;
    let vectors: Vec<Value> = ran
        .iter()
        .map(|one| {
            json!({
                "name": one.vector.name,
                "world": one.vector.inputs.world(),
                "held": one.held(),
                "expected": one.vector.expected.to_string(),
                "got": one.got(),
                "cause": one.called.result.as_ref().err(),
                "fuel": one.called.fuel,
                "took_us": one.called.took.as_secs_f64() * 1e6,
                "memory_bytes": one.called.memory_bytes,
                "log": one.lines().map(|(level, line)| json!({ "level": level, "line": line })).collect::<Vec<_>>(),
                "error": one.called.error.is_some().then(|| one.error().join("\n")),
            })
        })
        .collect();
    json!({
        "name": manifest.name,
        "version": manifest.version.to_string(),
        "digest": package.digest_hex(),
        "vectors": vectors,
        "failed": ran.iter().filter(|one| !one.held()).count(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use skerry_policy::package::pack;
    use skerry_policy::rows::Choice;

    use super::*;

    const MANIFEST: &str = r#"
name = "near"
version = "1.2.3"
worlds = ["region-router"]
[[vectors]]
name = "the second"
world = "region-router"
rows = [{ node = 1 }, { node = 2 }]
expect = [1]
"#;

    fn package() -> Package {
        Package::parse(pack(b"\0asm\x0d\0\x01\0", MANIFEST).unwrap()).unwrap()
    }

    fn ran(package: &Package, result: Result<Answer, Cause>, error: Option<&str>) -> String {
        let called = Called {
            result,
            error: error.map(str::to_owned),
            fuel: 1234,
            took: Duration::from_micros(21),
            memory_bytes: 1 << 20,
            lines: vec![(Level::Warn, "panicked at src/lib.rs:7:5:\nno row".into())],
            counts: Vec::new(),
            lookups: Vec::new(),
        };
        let limits =
            Limits { time: Duration::from_millis(5), memory_bytes: 1 << 24, fuel: 9, calls: 1, reuses: 1 };
        let all = [Ran { vector: &package.manifest.vectors[0], limits, called }];
        let value = report(package, &all);
        assert_eq!(value["failed"] == 0, value["vectors"][0]["held"] == true);
        told(package, &all)
    }

    fn row(row: u32) -> Result<Answer, Cause> {
        Ok(Answer::Ranked(vec![Choice { row, weight: 1 }]))
    }

    #[test]
    fn what_holds_takes_one_line_and_what_fails_says_why() {
        let package = package();
        let text = ran(&package, row(1), None);
        assert!(text.starts_with("ok    the second  (1234 of fuel, 0.021 ms)\n"), "{text}");
        assert!(text.ends_with("near 1.2.3: 1 of 1 hold\n"), "{text}");
        let text = ran(&package, row(0), None);
        for part in ["FAIL  the second", "expected  rows [1]", "got       rows [0]", ": 0 of 1 hold"] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        for (cause, words) in [
            (Cause::Abstain, "no opinion"),
            (Cause::Invalid, "invalid rows"),
            (Cause::BadIndex, "does not count"),
            (Cause::Deadline, "nothing within 5 ms"),
            (Cause::Fuel, "nothing within 9 of fuel"),
            (Cause::Memory, "nothing within 16.0 MiB of memory"),
            (Cause::Stack, "nothing: stack"),
        ] {
            let text = ran(&package, Err(cause), None);
            assert!(text.contains(words) && text.starts_with("FAIL"), "no {words} in\n{text}");
        }
    }

    #[test]
    fn a_trap_shows_where_it_was() {
        let error = "error while executing at wasm backtrace:\n    0: 0x12 - near.wasm!near::pick\n\nnote: using the \
                     `WASMTIME_BACKTRACE_DETAILS=1` variable\n\nCaused by:\n    wasm trap: \u{1b}[31munreachable";
        let text = ran(&package(), Err(Cause::Trap), Some(error));
        for part in ["near.wasm!near::pick", "panicked at src/lib.rs:7:5:", "Caused by:", "nothing: trap"] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert!(!text.contains("WASMTIME") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_backtrace_is_the_author_s() {
        let error = "error while executing at wasm backtrace:\n    0: 0x1 - abort\n        at /rustc/59/library/x.rs:1:2\n    \
                     1: 0x2 - _ZN4near4pick17h05af221e174051e9E\n        at /home/you/near/src/lib.rs:34:5";
        let text = ran(&package(), Err(Cause::Trap), Some(error));
        assert!(text.contains("1: 0x2 - near::pick\n") && text.contains("near/src/lib.rs:34:5"), "{text}");
        assert!(!text.contains("abort") && !text.contains("/rustc/"), "{text}");
    }

    #[test]
    fn a_policy_without_vectors_is_told_to_have_some() {
        let text = told(&package(), &[]);
        assert!(text.contains("no test vectors") && text.contains("[[vectors]]"), "{text}");
    }
}
