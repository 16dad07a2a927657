//! `skerry policy push`, `list`, `promote`, `hold`, `rollback` and `explain`: what needs a running node.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use skerry_policy::World;

use crate::cli::client::{Client, Target};
use crate::cli::print;

/// How long a node may take for a policy: it compiles it first.
const COMPILING: Duration = Duration::from_secs(150);

/// Sends a signed policy to a node, where it begins in shadow.
#[derive(Debug, Args)]
pub(in crate::cli) struct Push {
    /// The packaged and signed policy
    #[arg(value_name = "NAME.policy.wasm")]
    file: PathBuf,
    #[command(flatten)]
    target: Target,
}

impl Push {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let path = &self.file;
        let file = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let taken = Client::new(&self.target)?.patient(COMPILING).send_file("/policy/push", file.into())?;
        let word = |key: &str| taken[key].as_str().unwrap_or("?").to_owned();
        let worlds: Vec<&str> =
            taken["worlds"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let name = format!("{} {}", word("name"), word("version"));
        print(&match worlds.as_slice() {
            [] => format!("{name} is there already\n"),
            worlds => format!("{name} begins in shadow: {}\n", worlds.join(", ")),
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Shows what decides, and what is on its way.
#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl List {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let list = Client::new(&self.target)?.get("/policy")?;
        print(&if self.json { format!("{list:#}\n") } else { table(&list) })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn table(list: &Value) -> String {
    let mut text = format!("{:<22}{:<28}{:<12}{}\n", "WORLD", "POLICY", "STAGE", "");
    let mut line = |world: &str, policy: &Value, stage: &str, more: String| {
        let name = match policy.as_str() {
            Some(word) => word.to_owned(),
            None => format!("{} {}", string(policy, "name"), string(policy, "version")),
        };
        text.push_str(format!("{world:<22}{name:<28}{stage:<12}{more}").trim_end());
        text.push('\n');
    };
    for slot in list["worlds"].as_array().into_iter().flatten() {
        let world = string(slot, "world");
        let breaker = |policy: &Value| match policy["breaker"]["state"].as_str() {
            None | Some("closed") => String::new(),
            Some(_) => "rests, since it failed too often".to_owned(),
        };
        let restoring = slot["restoring"] == json!(true);
        let meanwhile = || "restoring: what decided before the start is being compiled".to_owned();
        match &slot["decides"] {
            Value::Null if restoring => line(&world, &json!("built-in"), "decides", meanwhile()),
            Value::Null => line(&world, &json!("built-in"), "decides", String::new()),
            policy if restoring => line(&world, policy, "decides", meanwhile()),
            policy => line(&world, policy, "decides", breaker(policy)),
        }
        if let candidate @ Value::Object(_) = &slot["candidate"] {
            let rollout = &candidate["rollout"];
            let held = if rollout["held"] == json!(true) { ", held" } else { "" };
            let more = format!(
                "{} calls, {} fallbacks, {} of {} differ, p99 {} us{held}",
                rollout["calls"],
                rollout["fallbacks"],
                rollout["differing"],
                rollout["compared"],
                rollout["p99_us"]
            );
            line("", &candidate["policy"], &string(rollout, "stage"), more);
        }
        if !slot["previous"].is_null() {
            line("", &slot["previous"], "before", String::new());
        }
    }
    text
}

fn string(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or("?").to_owned()
}

/// A world, and the node.
#[derive(Debug, Args)]
pub(in crate::cli) struct Step {
    /// region-router, preload-planner or super-peer-scheduler
    #[arg(value_name = "WORLD")]
    world: World,
    #[command(flatten)]
    target: Target,
}

impl Step {
    pub(super) fn promote(&self) -> anyhow::Result<ExitCode> {
        let list = self.ask("promote", false)?;
        print(&table(&list))?;
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn hold(&self, held: bool) -> anyhow::Result<ExitCode> {
        let list = self.ask("hold", held)?;
        print(&table(&list))?;
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn roll_back(&self) -> anyhow::Result<ExitCode> {
        let now = self.ask("rollback", false)?;
        print(&format!("{}: {} decides\n", self.world, string(&now, "decides")))?;
        Ok(ExitCode::SUCCESS)
    }

    fn ask(&self, step: &str, held: bool) -> anyhow::Result<Value> {
        let mut change = json!({ "world": self.world.name() });
        if step == "hold" {
            change["held"] = json!(held);
        }
        Client::new(&self.target)?.send_file(&format!("/policy/{step}"), change.to_string().into())
    }
}

/// Shows decisions of the sample: what was asked, what the policy said, what the built-in verdict
/// would have said.
#[derive(Debug, Args)]
pub(in crate::cli) struct Explain {
    /// Only this world
    #[arg(long)]
    world: Option<World>,
    /// Only the policy of this name
    #[arg(long)]
    policy: Option<String>,
    /// Only decisions after this number
    #[arg(long, value_name = "NUMBER")]
    since: Option<u64>,
    /// So many at most
    #[arg(long, default_value_t = 20)]
    limit: u64,
    /// Print JSON, with every row
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Explain {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let mut path = format!("/policy/decisions?limit={}", self.limit);
        for (key, value) in [
            ("world", self.world.map(|world| world.name().to_owned())),
            ("policy", self.policy.clone()),
            ("since", self.since.map(|since| since.to_string())),
        ] {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={value}"));
            }
        }
        let page = Client::new(&self.target)?.get(&path)?;
        if self.json {
            print(&format!("{page:#}\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut text = String::new();
        for decision in page["decisions"].as_array().into_iter().flatten() {
            text.push_str(&told(decision));
        }
        print(if text.is_empty() { "no decisions in the sample yet\n" } else { &text })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn told(decision: &Value) -> String {
    let said = |answer: &Value| match serde_json::from_value::<skerry_policy::rows::Answer>(answer.clone()) {
        Ok(answer) => answer.to_string(),
        Err(_) => answer.to_string(),
    };
    let verdict = match &decision["verdict"]["answer"] {
        Value::Null => format!("fell back: {}", string(&decision["verdict"], "fallback")),
        answer => said(answer),
    };
    let stage = decision["stage"].as_str().map_or_else(String::new, |stage| format!(" ({stage})"));
    format!(
        "{} {} by {} {}{stage}, {} us, fuel {}\n  said      {verdict}\n  built-in  {}\n",
        decision["sequence"],
        string(decision, "world"),
        string(decision, "policy"),
        string(decision, "version"),
        decision["took_us"],
        decision["fuel"],
        said(&decision["builtin"]),
    )
}
