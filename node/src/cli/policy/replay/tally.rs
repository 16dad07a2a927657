//! What two versions said to the decisions of one world, and how that is shown.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use skerry_policy::decisions::{Decision, Verdict};
use skerry_policy::rollout::{Stage, differ};
use skerry_policy::rows::{Answer, Inputs};
use skerry_policy::{Cause, World};

use crate::cli::policy::bench::{at, micros};
use crate::cli::units::cut;

/// Characters of a verdict on a screen.
const WIDTH: usize = 100;

/// What is acted upon, and whose it is.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Said {
    /// The version's own answer, or the built-in one that stands in for it.
    pub(super) answer: Answer,
    /// Why it stands in.
    fallback: Option<Cause>,
}

/// What one side said to a decision, and what that took.
pub(super) struct Asked {
    pub(super) said: Said,
    pub(super) took: Duration,
    /// None for the built-in verdict.
    pub(super) fuel: Option<u64>,
    /// Lookups that the recording has no answer to.
    pub(super) unknown: u64,
}

/// One decision on which two sides differ.
#[derive(Debug)]
pub(super) struct Example {
    sequence: u64,
    at_ms: u64,
    world: World,
    region: u32,
    sides: [(&'static str, Said); 2],
}

/// The decisions of a world.
pub(super) struct Tally {
    world: World,
    /// Names of the two sides.
    names: [&'static str; 2],
    /// Made in shadow: the same call is also recorded as what decided made it.
    shadow: u64,
    all: Counts,
    /// By the region of the client, or of the node that a plan is for.
    regions: BTreeMap<u32, Counts>,
    figures: [Figures; 2],
    examples: Vec<Example>,
}

/// Decisions, and how many differ.
#[derive(Debug, Default)]
struct Counts {
    decisions: u64,
    /// In what is acted upon first.
    first: u64,
    /// In anything.
    whole: u64,
}

/// What the calls of one side came to. The lists take 24 bytes for each decision, a small part of
/// what it takes in its recording.
#[derive(Debug, Default)]
struct Figures {
    times: Vec<Duration>,
    fuels: Vec<u64>,
    /// Calls without a verdict of their own, by cause.
    fallbacks: BTreeMap<&'static str, u64>,
    unknown: u64,
}

impl Said {
    /// An answer of its own.
    pub(super) fn own(answer: Answer) -> Self {
        Self { answer, fallback: None }
    }

    /// What a call came to.
    pub(super) fn of(result: Result<Answer, Cause>, builtin: &Answer) -> Self {
        match result {
            Ok(answer) => Self::own(answer),
            Err(cause) => Self { answer: builtin.clone(), fallback: Some(cause) },
        }
    }

    /// What was acted upon when the decision was recorded.
    pub(super) fn recorded(decision: &Decision) -> Self {
        let result = match &decision.verdict {
            Verdict::Answer(answer) => Ok(answer.clone()),
            Verdict::Fallback(cause) => Err(*cause),
        };
        Self::of(result, &decision.builtin)
    }

    /// As it is recorded.
    pub(super) fn verdict(&self) -> Verdict {
        self.fallback.map_or_else(|| Verdict::Answer(self.answer.clone()), Verdict::Fallback)
    }

    fn words(&self, weights: bool) -> String {
        let mut words = self.answer.to_string();
        if let Answer::Ranked(choices) | Answer::Scheduled { peers: choices, .. } = &self.answer
            && weights
        {
            let weights: Vec<u32> = choices.iter().map(|choice| choice.weight).collect();
            words.push_str(&format!(", weights {weights:?}"));
        }
        words = cut(&words, WIDTH);
        if let Some(cause) = self.fallback {
            words.push_str(&format!(", the built-in verdict, because of `{cause}`"));
        }
        words
    }
}

impl Example {
    pub(super) fn new(decision: &Decision, sides: [(&'static str, Said); 2]) -> Self {
        let (sequence, at_ms, inputs) = (decision.sequence, decision.at_ms, &decision.inputs);
        Self { sequence, at_ms, world: inputs.world(), region: region(inputs), sides }
    }

    fn first_differs(&self) -> bool {
        let [(_, one), (_, other)] = &self.sides;
        differ(&one.answer, &other.answer)
    }

    pub(super) fn told(&self) -> String {
        let region = named(self.region);
        let mut text = format!("  {} at {} ms, region {region}\n", self.sequence, self.at_ms);
        let [(_, one), (_, other)] = &self.sides;
        // Only where the rows do not tell them apart.
        let weights = one.answer.to_string() == other.answer.to_string();
        for (name, said) in &self.sides {
            text.push_str(&format!("    {name:<10}{}\n", said.words(weights)));
        }
        text
    }

    pub(super) fn report(&self) -> Value {
        let mut report = json!({
            "sequence": self.sequence,
            "at_ms": self.at_ms,
            "world": self.world,
            "region": self.region,
        });
        for (name, said) in &self.sides {
            report[*name] = json!(said);
        }
        report
    }
}

/// A region as it is shown.
fn named(region: u32) -> String {
    if region == 0 { "unknown".to_owned() } else { region.to_string() }
}

fn region(inputs: &Inputs) -> u32 {
    match inputs {
        Inputs::RegionRouter { request, .. } => request.region,
        Inputs::PreloadPlanner { request, .. } => request.region,
        Inputs::SuperPeerScheduler { request, .. } => request.region,
    }
}

impl Tally {
    /// Nothing yet, of the new version and what it is compared with.
    pub(super) fn new(world: World, old: &'static str) -> Self {
        Self {
            world,
            names: ["new", old],
            shadow: 0,
            all: Counts::default(),
            regions: BTreeMap::new(),
            figures: Default::default(),
            examples: Vec::new(),
        }
    }

    pub(super) fn world(&self) -> World {
        self.world
    }

    pub(super) fn decisions(&self) -> u64 {
        self.all.decisions
    }

    /// Counts a decision, and keeps it as one of `limit` examples if the two differ.
    pub(super) fn add(&mut self, decision: &Decision, new: Asked, old: Asked, limit: usize) {
        let first = differ(&new.said.answer, &old.said.answer);
        let whole = new.said.answer != old.said.answer;
        let region = self.regions.entry(region(&decision.inputs)).or_default();
        for counts in [&mut self.all, region] {
            counts.decisions += 1;
            counts.first += u64::from(first);
            counts.whole += u64::from(whole);
        }
        self.shadow += u64::from(decision.stage == Some(Stage::Shadow));
        for (figures, asked) in self.figures.iter_mut().zip([&new, &old]) {
            figures.add(asked);
        }
        if whole {
            let [one, other] = self.names;
            self.keep(Example::new(decision, [(one, new.said), (other, old.said)]), limit);
        }
    }

    /// Keeps the first examples; one that differs in what is acted upon first says more than others.
    fn keep(&mut self, example: Example, limit: usize) {
        if self.examples.len() >= limit {
            let lesser = self.examples.iter().rposition(|kept| !kept.first_differs());
            let Some(lesser) = lesser.filter(|_| example.first_differs()) else { return };
            self.examples.remove(lesser);
        }
        self.examples.push(example);
    }

    pub(super) fn told(&self) -> String {
        let (world, all) = (self.world, &self.all);
        if all.decisions == 0 {
            return format!("\n{world}: no decisions\n");
        }
        let shadow = match self.shadow {
            0 => String::new(),
            shadow => format!(", {shadow} of them in shadow, beside what decided"),
        };
        let mut text = format!(
            "\n{world}: {} decisions{shadow}\nthe first choice differs in {} ({}), the whole verdict in {} ({})\n",
            all.decisions,
            all.first,
            share(all.first, all.decisions),
            all.whole,
            share(all.whole, all.decisions),
        );
        text.push_str(&format!(
            "\n{:<12}{:>12}{:>16}{:>16}\n",
            "region", "decisions", "first choice", "whole verdict"
        ));
        let mut regions: Vec<(&u32, &Counts)> = self.regions.iter().collect();
        regions.sort_by_key(|(_, counts)| (Reverse(counts.first), Reverse(counts.whole)));
        for (region, counts) in regions {
            let (region, Counts { decisions, first, whole }) = (named(*region), counts);
            text.push_str(&format!("{region:<12}{decisions:>12}{first:>16}{whole:>16}\n"));
        }
        text.push_str(&self.told_of_calls());
        if !self.examples.is_empty() {
            text.push_str(&format!("\n{} of {} differences:\n", self.examples.len(), all.whole));
            text.extend(self.examples.iter().map(Example::told));
        }
        text
    }

    /// The figures of both sides, side by side.
    fn told_of_calls(&self) -> String {
        let [one, other] = self.names;
        let mut text = format!("\n{:<12}{one:>16}{other:>16}\n", "");
        let time = |time: Option<Duration>| time.map(|time| format!("{:.1}", micros(time)));
        let fuel = |fuel: Option<u64>| fuel.map(|fuel| fuel.to_string());
        let columns = self.figures.each_ref().map(|figures| {
            let ([p50, p99], [fuel_p50, fuel_p99]) = (quantiles(&figures.times), quantiles(&figures.fuels));
            [time(p50), time(p99), fuel(fuel_p50), fuel(fuel_p99)]
        });
        let [one, other] = &columns;
        for (row, name) in ["p50 us", "p99 us", "p50 fuel", "p99 fuel"].iter().enumerate() {
            let [one, other] = [one, other].map(|column| column[row].as_deref().unwrap_or("-"));
            text.push_str(&format!("{name:<12}{one:>16}{other:>16}\n"));
        }
        let causes = self.figures.iter().flat_map(|figures| figures.fallbacks.keys());
        let causes: BTreeSet<&&str> = causes.collect();
        text.push_str(if causes.is_empty() { "no fallbacks\n" } else { "fallbacks\n" });
        for cause in causes {
            let [one, other] =
                self.figures.each_ref().map(|figures| figures.fallbacks.get(cause).copied().unwrap_or(0));
            text.push_str(&format!("  {cause:<10}{one:>16}{other:>16}\n"));
        }
        let [one, other] = self.figures.each_ref().map(|figures| figures.unknown);
        if one + other > 0 {
            text.push_str(&format!(
                "{:<12}{one:>16}{other:>16}  of keys that are not in the recording: they found nothing\n",
                "lookups"
            ));
        }
        text
    }

    pub(super) fn report(&self) -> Value {
        let regions = self.regions.iter().map(|(region, counts)| {
            json!({
                "region": region,
                "decisions": counts.decisions,
                "first_choice_differs": counts.first,
                "verdict_differs": counts.whole,
            })
        });
        let [new, old] = self.names;
        let [of_new, of_old] = self.figures.each_ref().map(Figures::report);
        json!({
            "world": self.world,
            "decisions": self.all.decisions,
            "shadow": self.shadow,
            "first_choice_differs": self.all.first,
            "verdict_differs": self.all.whole,
            "regions": regions.collect::<Vec<_>>(),
            "calls": { new: of_new, old: of_old },
            "examples": self.examples.iter().map(Example::report).collect::<Vec<_>>(),
        })
    }
}

impl Figures {
    fn add(&mut self, asked: &Asked) {
        self.times.push(asked.took);
        self.fuels.extend(asked.fuel);
        if let Some(cause) = asked.said.fallback {
            *self.fallbacks.entry(cause.name()).or_default() += 1;
        }
        self.unknown += asked.unknown;
    }

    fn report(&self) -> Value {
        let [p50, p99] = quantiles(&self.times).map(|time| time.map(micros));
        let [fuel_p50, fuel_p99] = quantiles(&self.fuels);
        json!({
            "p50_us": p50,
            "p99_us": p99,
            "p50_fuel": fuel_p50,
            "p99_fuel": fuel_p99,
            "fallbacks": self.fallbacks,
            "unknown_lookups": self.unknown,
        })
    }
}

/// The p50 and the p99; none of nothing.
fn quantiles<T: Copy + Ord>(values: &[T]) -> [Option<T>; 2] {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    [50, 99].map(|percent| at(&sorted, percent))
}

fn share(part: u64, whole: u64) -> String {
    format!("{:.1} %", part as f64 * 100.0 / whole.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{decision, rows};
    use super::*;

    fn asked(said: Said) -> Asked {
        Asked { said, took: Duration::from_micros(13), fuel: Some(900), unknown: 0 }
    }

    fn own(order: &[u32]) -> Asked {
        asked(Said::own(rows(order, 1)))
    }

    #[test]
    fn differences_are_counted_by_region_and_those_with_most_come_first() {
        let mut tally = Tally::new(World::RegionRouter, "old");
        for sequence in 0..10 {
            tally.add(&decision(sequence, 3), own(&[0, 1]), own(&[0, 1]), 10);
        }
        tally.add(&decision(10, 0), own(&[0, 1]), own(&[0]), 10);
        let mut shadow = decision(11, 77);
        shadow.stage = Some(Stage::Shadow);
        tally.add(&shadow, own(&[1, 0]), own(&[0, 1]), 10);
        let text = tally.told();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1..4],
            [
                "region-router: 12 decisions, 1 of them in shadow, beside what decided",
                "the first choice differs in 1 (8.3 %), the whole verdict in 2 (16.7 %)",
                "",
            ]
        );
        let table: Vec<Vec<&str>> =
            lines[5..8].iter().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(table, [["77", "1", "1", "1"], ["unknown", "1", "0", "1"], ["3", "10", "0", "0"]]);
        assert!(text.contains("\n2 of 2 differences:\n  10 at 1700000000010 ms, region unknown\n"), "{text}");
        assert!(text.contains("    new       rows [1, 0]\n    old       rows [0, 1]\n"), "{text}");
        let report = tally.report();
        let region = json!({ "region": 77, "decisions": 1, "first_choice_differs": 1, "verdict_differs": 1 });
        assert_eq!((&report["regions"][2], &report["shadow"]), (&region, &json!(1)));
        assert_eq!((tally.world(), tally.decisions()), (World::RegionRouter, 12));
    }

    #[test]
    fn calls_are_shown_side_by_side() {
        let mut tally = Tally::new(World::RegionRouter, "built-in");
        let builtin = rows(&[0, 1], 1);
        for number in 1..=100 {
            let result = if number <= 3 { Err(Cause::Trap) } else { Ok(builtin.clone()) };
            let new = Asked {
                said: Said::of(result, &builtin),
                took: Duration::from_micros(number),
                fuel: Some(number * 10),
                unknown: u64::from(number == 1),
            };
            let old = Asked { fuel: None, ..asked(Said::own(builtin.clone())) };
            tally.add(&decision(number, 1), new, old, 10);
        }
        let text = tally.told();
        let row = |name: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(name));
            let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
            line.trim_start()[name.len()..].split_whitespace().take(2).collect::<Vec<_>>()
        };
        assert_eq!((row("p50 us"), row("p99 us")), (vec!["50.0", "13.0"], vec!["99.0", "13.0"]));
        assert_eq!((row("p50 fuel"), row("p99 fuel")), (vec!["500", "-"], vec!["990", "-"]));
        assert_eq!((row("trap"), row("lookups")), (vec!["3", "0"], vec!["1", "0"]));
        assert!(text.contains("differs in 0 (0.0 %)") && !text.contains("differences:"), "{text}");
        let calls = &tally.report()["calls"];
        assert_eq!(
            (&calls["new"]["fallbacks"], &calls["new"]["p99_fuel"]),
            (&json!({ "trap": 3 }), &json!(990))
        );
        assert_eq!(
            (&calls["built-in"]["p50_fuel"], &calls["built-in"]["fallbacks"]),
            (&json!(null), &json!({}))
        );
    }

    #[test]
    fn of_the_examples_those_with_another_first_choice_stay() {
        let mut tally = Tally::new(World::RegionRouter, "old");
        for sequence in 1..=6 {
            // Every second one differs behind the first choice only.
            let new = if sequence % 2 == 0 { own(&[1, 0]) } else { own(&[0]) };
            tally.add(&decision(sequence, 1), new, own(&[0, 1]), 2);
        }
        let kept: Vec<u64> = tally.examples.iter().map(|example| example.sequence).collect();
        assert_eq!(kept, [2, 4]);
        let mut none = Tally::new(World::RegionRouter, "old");
        none.add(&decision(1, 1), own(&[1]), own(&[0]), 0);
        assert!(none.examples.is_empty() && none.all.whole == 1);
        assert_eq!(Tally::new(World::PreloadPlanner, "old").told(), "\npreload-planner: no decisions\n");
    }

    #[test]
    fn an_example_shows_what_tells_the_two_apart() {
        let light = Said::own(rows(&[1, 0], 1));
        let stood_in = Said::of(Err(Cause::Abstain), &rows(&[1, 0], 5));
        let told = Example::new(&decision(1, 9), [("new", light.clone()), ("old", stood_in)]).told();
        assert!(told.contains("    new       rows [1, 0], weights [1, 1]\n"), "{told}");
        let words = "rows [1, 0], weights [5, 5], the built-in verdict, because of `abstain`";
        assert!(told.contains(words), "{told}");
        let many = Said::own(rows(&(0..4096).collect::<Vec<u32>>(), 1));
        let told = Example::new(&decision(1, 9), [("new", light), ("old", many)]).told();
        assert!(told.lines().all(|line| line.chars().count() <= WIDTH + 14), "{told}");
        assert!(!told.contains("weights"), "{told}");
    }
}
