//! `skerry policy replay`: the decisions of a recording, made again by two versions, and what differs.
//!
//! Each call is made as on a node with the default configuration, with the clock that was recorded and
//! with what was looked up then. Where a version has no verdict, the built-in one stands in for it, as
//! it would on the node; it is compared, too, and the call is counted by its cause. That versions differ
//! is no failure; that a recorded verdict does not come again is, where that is asked for.

#[cfg(test)]
mod samples;
mod tally;
mod verified;

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use skerry_policy::decisions::{Decision, Lookup, read_recording, recordings};
use skerry_policy::rows::Answer;
use skerry_policy::{Callable, Cause, Package, Surroundings, Tables, World, builtin};

use self::tally::{Asked, Said, Tally};
use self::verified::Verified;
use super::load::{Sandbox, package};
use super::test::plain;
use crate::cli::{VERIFICATION_FAILED, print};

/// Calls of a decision that runs out of time: on a busy machine that need not be the policy's doing.
const TRIES: u32 = 3;
/// Lines that cannot be replayed and are told one by one.
const MOST_TOLD: usize = 20;
/// Least time between two states of the progress line.
const PERIOD: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(in crate::cli) struct Replay {
    /// The policy to try: a packaged one, or the folder of one, which is built first
    new: PathBuf,
    /// The policy to compare it with; without it, and for worlds that it does not decide, the
    /// built-in verdict
    old: Option<PathBuf>,
    /// What a node has recorded: a file, or the folder `policy.decisions.record_dir`
    #[arg(long, value_name = "FILE|DIR")]
    recording: PathBuf,
    /// Say whether the verdicts that NEW gave when it was recorded come again, byte for byte; exit with
    /// 3 when one does not
    #[arg(long)]
    verify: bool,
    /// Differences that are shown, for each world
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u16).range(..=1000))]
    limit: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Replay {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let new = package(&self.new)?;
        let old = self.old.as_deref().map(package).transpose()?;
        let files = files(&self.recording)?;
        let sandbox = Sandbox::new()?;
        let mut replayed = Replayed {
            pairs: pairs(&sandbox, &new, old.as_ref())?,
            verified: self.verify.then(|| Verified::new(new.1.digest_hex())),
            limit: usize::from(self.limit),
            others: 0,
            skipped: Skipped::default(),
        };
        replayed.read(&files);
        replayed.check().with_context(|| self.recording.display().to_string())?;
        let (new, old) = (&new.1, old.as_ref().map(|(_, package)| package));
        if self.json {
            print(&format!("{:#}\n", replayed.report(new, old)))?;
        } else {
            print(&replayed.told(new, old))?;
        }
        let failed = replayed.verified.as_ref().is_some_and(Verified::failed);
        Ok(if failed { ExitCode::from(VERIFICATION_FAILED) } else { ExitCode::SUCCESS })
    }
}

/// A version in one world.
struct Side {
    callable: Callable,
    /// Names of its tables, in the order of their numbers.
    tables: Vec<String>,
}

/// Two versions in one world; where there is no old one, the built-in verdict.
struct Pair {
    new: Side,
    old: Option<Side>,
    tally: Tally,
}

/// A replay, as far as it has come.
struct Replayed {
    pairs: Vec<Pair>,
    verified: Option<Verified>,
    limit: usize,
    /// Decisions of worlds that the new version does not decide.
    others: u64,
    skipped: Skipped,
}

/// What could not be replayed.
#[derive(Debug, Default)]
struct Skipped {
    count: u64,
    first: Vec<String>,
}

/// The recordings at a path, oldest first.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let files = recordings(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(!files.is_empty(), "{} holds no recording, as `decisions-00000001.jsonl`", path.display());
    Ok(files)
}

fn pairs(
    sandbox: &Sandbox,
    new: &(PathBuf, Package),
    old: Option<&(PathBuf, Package)>,
) -> anyhow::Result<Vec<Pair>> {
    let new = sides(sandbox, new)?;
    let mut old = old.map(|old| sides(sandbox, old)).transpose()?.unwrap_or_default();
    let pair = |(world, new): (World, Side)| {
        let at = old.iter().position(|(other, _)| *other == world);
        let old = at.map(|at| old.swap_remove(at).1);
        let tally = Tally::new(world, if old.is_some() { "old" } else { "built-in" });
        Pair { new, old, tally }
    };
    Ok(new.into_iter().map(pair).collect())
}

fn sides(sandbox: &Sandbox, (file, package): &(PathBuf, Package)) -> anyhow::Result<Vec<(World, Side)>> {
    let callables = sandbox.callables(package, &package.manifest);
    let callables = callables.with_context(|| file.display().to_string())?;
    let side = |callable| Side { callable, tables: package.manifest.tables.clone() };
    Ok(callables.into_iter().map(|(world, callable)| (world, side(callable))).collect())
}

impl Side {
    /// Makes a decision again; `builtin` stands in where there is no verdict.
    fn ask(&self, decision: &Decision, surroundings: &Surroundings, builtin: &Answer) -> Asked {
        let mut called = self.callable.call(&decision.inputs, surroundings);
        for _ in 1..TRIES {
            if called.result != Err(Cause::Deadline) {
                break;
            }
            called = self.callable.call(&decision.inputs, surroundings);
        }
        Asked {
            unknown: unknown(&self.tables, &called.lookups, &decision.lookups),
            said: Said::of(called.result, builtin),
            took: called.took,
            fuel: Some(called.fuel),
        }
    }
}

/// The clock of a decision, and of the operator's tables what was looked up.
fn surroundings(decision: &Decision) -> Surroundings {
    let mut tables = Tables::new();
    for lookup in &decision.lookups {
        if let Some(value) = lookup.value {
            tables.entry(lookup.table.clone()).or_default().insert(lookup.key, value);
        }
    }
    Surroundings { now_ms: decision.at_ms, tables: Arc::new(tables) }
}

/// Lookups that found nothing since nobody looked there when the decision was recorded. `asked` is
/// table, key and value.
fn unknown(tables: &[String], asked: &[(u32, u64, Option<i64>)], recorded: &[Lookup]) -> u64 {
    let known: HashSet<(&str, u64)> =
        recorded.iter().map(|lookup| (lookup.table.as_str(), lookup.key)).collect();
    let unknown = asked.iter().filter(|(table, key, _)| {
        tables.get(*table as usize).is_some_and(|name| !known.contains(&(name.as_str(), *key)))
    });
    unknown.count() as u64
}

impl Replayed {
    /// Replays every decision of these files. What cannot be read is noted: a running node may be
    /// writing the last line, and removes its oldest files.
    fn read(&mut self, files: &[PathBuf]) {
        let mut progress = Progress::new();
        let mut read = 0_u64;
        for (number, file) in files.iter().enumerate() {
            let input = match File::open(file) {
                Ok(input) => BufReader::new(input),
                Err(error) => {
                    self.skipped.add(file, &format!("cannot be read: {error}"));
                    continue;
                }
            };
            for record in read_recording(input) {
                match record {
                    Ok(decision) => self.again(&decision),
                    Err(error) => self.skipped.add(file, &error.to_string()),
                }
                read += 1;
                progress.show(|| format!("file {} of {}, {read} decisions", number + 1, files.len()));
            }
        }
        progress.clear();
    }

    fn again(&mut self, decision: &Decision) {
        let world = decision.inputs.world();
        let Some(pair) = self.pairs.iter_mut().find(|pair| pair.tally.world() == world) else {
            self.others += 1;
            return;
        };
        let surroundings = surroundings(decision);
        let begun = Instant::now();
        let answer = builtin::decide(&decision.inputs);
        let took = begun.elapsed();
        let new = pair.new.ask(decision, &surroundings, &answer);
        if let Some(verified) = &mut self.verified {
            verified.add(decision, &new.said, self.limit);
        }
        let old = match &pair.old {
            Some(old) => old.ask(decision, &surroundings, &answer),
            None => Asked { said: Said::own(answer), took, fuel: None, unknown: 0 },
        };
        pair.tally.add(decision, new, old, self.limit);
    }

    fn decisions(&self) -> u64 {
        self.pairs.iter().map(|pair| pair.tally.decisions()).sum()
    }

    /// Whether there was anything to replay.
    fn check(&self) -> anyhow::Result<()> {
        if self.decisions() == 0 {
            let worlds: Vec<&str> = self.pairs.iter().map(|pair| pair.tally.world().name()).collect();
            let why = self.skipped.first.first().map(|first| format!(": {first}")).unwrap_or_default();
            bail!("no decision of {} to replay{why}", worlds.join(" or "));
        }
        self.verified.as_ref().map_or(Ok(()), Verified::check)
    }

    fn told(&self, new: &Package, old: Option<&Package>) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| text.push_str(&format!("{name:<11}{value}\n"));
        for (name, package) in [("new", Some(new)), ("old", old)] {
            if let Some(package) = package {
                let (manifest, digest) = (&package.manifest, package.digest_hex());
                line(name, format!("{} {}, digest {digest}", manifest.name, manifest.version));
            }
        }
        let others = match self.others {
            0 => String::new(),
            others => format!("; {others} of other worlds are left out"),
        };
        line("recording", format!("{} decisions{others}", self.decisions()));
        if self.skipped.count > 0 {
            line("skipped", format!("{}, which cannot be read", self.skipped.count));
            for one in &self.skipped.first {
                line("", one.clone());
            }
        }
        if let Some(verified) = &self.verified {
            text.push_str(&verified.told());
        }
        for pair in &self.pairs {
            text.push_str(&pair.tally.told());
        }
        text
    }

    fn report(&self, new: &Package, old: Option<&Package>) -> Value {
        let policy = |package: &Package| {
            json!({
                "name": package.manifest.name,
                "version": package.manifest.version.to_string(),
                "digest": package.digest_hex(),
            })
        };
        json!({
            "new": policy(new),
            "old": old.map(policy),
            "decisions": self.decisions(),
            "other_worlds": self.others,
            "skipped": { "count": self.skipped.count, "first": self.skipped.first },
            "verified": self.verified.as_ref().map(Verified::report),
            "worlds": self.pairs.iter().map(|pair| pair.tally.report()).collect::<Vec<_>>(),
        })
    }
}

impl Skipped {
    fn add(&mut self, file: &Path, reason: &str) {
        self.count += 1;
        if self.first.len() < MOST_TOLD {
            self.first.push(plain(&format!("{}: {reason}", file.display())));
        }
    }
}

/// One line of progress on a terminal; nothing in a pipe.
struct Progress {
    terminal: bool,
    shown: Option<Instant>,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: None }
    }

    fn show(&mut self, text: impl FnOnce() -> String) {
        if self.terminal && self.shown.is_none_or(|shown| shown.elapsed() >= PERIOD) {
            self.shown = Some(Instant::now());
            self.write(&text());
        }
    }

    fn clear(&self) {
        if self.shown.is_some() {
            self.write("");
        }
    }

    /// Replaces the line; a terminal that went away is no reason to stop.
    fn write(&self, text: &str) {
        let _ = write!(std::io::stderr().lock(), "\r\x1b[K{text}");
    }
}

#[cfg(test)]
mod tests {
    use skerry_policy::decisions::{HEADER, encode};
    use skerry_policy::package::pack;

    use super::samples::decision;
    use super::*;

    fn lookup(table: &str, key: u64, value: Option<i64>) -> Lookup {
        Lookup { table: table.into(), key, value }
    }

    /// A replay for no world: every decision is of another.
    fn nobody() -> Replayed {
        Replayed { pairs: Vec::new(), verified: None, limit: 0, others: 0, skipped: Skipped::default() }
    }

    #[test]
    fn a_call_sees_the_clock_and_the_tables_of_its_recording() {
        let mut decision = decision(7, 1);
        decision.lookups =
            vec![lookup("costs", 1, Some(-3)), lookup("costs", 2, None), lookup("links", 1, Some(i64::MAX))];
        let surroundings = surroundings(&decision);
        assert_eq!(surroundings.now_ms, decision.at_ms);
        assert_eq!(surroundings.tables["costs"].get(&1), Some(&-3));
        assert_eq!(surroundings.tables["costs"].get(&2), None);
        assert_eq!(surroundings.tables["links"][&1], i64::MAX);
        assert_eq!(surroundings.tables.len(), 2);
    }

    #[test]
    fn lookups_that_the_recording_cannot_answer_are_counted() {
        let tables = ["links".to_owned(), "costs".to_owned()];
        let recorded = [lookup("costs", 1, Some(5)), lookup("costs", 2, None)];
        // Under its number of today; what was none is known, and no table is none for everybody.
        let asked = [(1, 1, Some(5)), (1, 2, None), (2, 1, None)];
        assert_eq!(unknown(&tables, &asked, &recorded), 0);
        assert_eq!(unknown(&tables, &[(1, 3, None), (0, 1, None), (1, 1, Some(5))], &recorded), 2);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("decisions-00000001.jsonl");
        let mut bytes = HEADER.as_bytes().to_vec();
        for sequence in 1..=3 {
            bytes.extend(encode(&decision(sequence, 1)).unwrap());
        }
        bytes.truncate(bytes.len() - 9);
        std::fs::write(&file, bytes).unwrap();
        let gone = folder.path().join("decisions-00000002.jsonl");
        let mut replayed = nobody();
        replayed.read(&[file.clone(), gone.clone()]);
        assert_eq!((replayed.others, replayed.skipped.count), (2, 2));
        let torn = format!("{}: line 4: the record is cut off, and left out", file.display());
        assert_eq!(replayed.skipped.first[0], torn);
        assert!(replayed.skipped.first[1].starts_with(&format!("{}: cannot be read: ", gone.display())));
        assert!(replayed.check().unwrap_err().to_string().ends_with(&format!(" to replay: {torn}")));

        let manifest = "name = \"near\"\nversion = \"1.2.3\"\nworlds = [\"region-router\"]\n";
        let package = Package::parse(pack(b"\0asm\x0d\0\x01\0", manifest).unwrap()).unwrap();
        let text = replayed.told(&package, Some(&package));
        for part in [
            "new        near 1.2.3, digest ",
            "\nold        near 1.2.3, ",
            "; 2 of other worlds",
            torn.as_str(),
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(text.contains("\nskipped    2, which cannot be read\n"), "{text}");
        let report = replayed.report(&package, None);
        assert_eq!((&report["skipped"]["count"], &report["old"]), (&json!(2), &Value::Null));
        assert_eq!(report["skipped"]["first"][0], torn);
    }

    #[test]
    fn what_is_told_of_wrong_lines_is_bounded_and_fit_for_a_terminal() {
        let mut skipped = Skipped::default();
        for number in 0..100 {
            skipped.add(Path::new("a"), &format!("line {number}: \u{1b}[31m"));
        }
        assert_eq!((skipped.count, skipped.first.len()), (100, MOST_TOLD));
        assert_eq!(skipped.first[0], "a: line 0: \u{fffd}[31m");
    }

    #[test]
    fn a_folder_gives_its_recordings_and_a_file_itself() {
        let folder = tempfile::tempdir().unwrap();
        assert!(files(folder.path()).unwrap_err().to_string().contains("holds no recording"));
        for name in ["decisions-00000010.jsonl", "decisions-00000009.jsonl", "notes"] {
            std::fs::write(folder.path().join(name), HEADER).unwrap();
        }
        let found = files(folder.path()).unwrap();
        let names = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap());
        assert_eq!(names.collect::<Vec<_>>(), ["decisions-00000009.jsonl", "decisions-00000010.jsonl"]);
        let notes = folder.path().join("notes");
        assert_eq!(files(&notes).unwrap(), [notes]);
    }
}
