//! The HTTP caching conformance suite `http-cache-tests`, run against a node in front of the
//! suite's own origin. A verdict is what the suite's own display would show: a test counts when it
//! passes and everything that it depends on passes too.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use serde::Deserialize;
use serde_json::Value;
use skerry_tests::node::Node;
use skerry_tests::process;
use tempfile::TempDir;

/// Of 157 required behaviours so many are held, at least.
const REQUIRED_FLOOR: usize = 146;

/// Of 86 optional behaviours so many are held, at least.
const OPTIMAL_FLOOR: usize = 83;

/// Prints every test of the suite with what its verdict depends on.
const LIST: &str = r#"
import suites from './tests/index.mjs'
import surrogate from './tests/surrogate-control.mjs'
const all = [...suites.map(suite => [suite, false]), [surrogate, true]]
console.log(JSON.stringify(all.flatMap(([suite, extra]) => suite.tests.map(test => ({
  id: test.id,
  kind: test.kind || 'required',
  depends_on: test.depends_on || [],
  browser_only: test.browser_only === true,
  extra
})))))
"#;

/// A test of the suite.
#[derive(Deserialize)]
struct Test {
    id: String,
    kind: Kind,
    depends_on: Vec<String>,
    browser_only: bool,
    /// Of `Surrogate-Control`, which no RFC defines: shown, but not counted.
    extra: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Required,
    Optimal,
    Check,
}

/// What the suite's display makes of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    Fail,
    /// The scene for the test could not be set.
    Setup,
    /// The client had to send a request again, so that nothing can be said.
    Retry,
    /// A test that this one depends on did not pass.
    Dependency,
    Untested,
}

struct Suite {
    tests: BTreeMap<String, Test>,
    results: serde_json::Map<String, Value>,
}

impl Suite {
    fn verdict(&self, id: &str) -> Verdict {
        let (Some(test), Some(result)) = (self.tests.get(id), self.results.get(id)) else {
            return Verdict::Untested;
        };
        if test.depends_on.iter().any(|other| self.verdict(other) != Verdict::Pass) {
            return Verdict::Dependency;
        }
        match (result.as_bool(), result[0].as_str(), result[1].as_str()) {
            (Some(true), _, _) => Verdict::Pass,
            (_, Some("Setup"), Some("retry")) => Verdict::Retry,
            (_, Some("Setup"), _) => Verdict::Setup,
            _ => Verdict::Fail,
        }
    }

    /// How many tests of this kind count, and how many of those pass.
    fn score(&self, kind: Kind, extra: bool) -> (usize, usize) {
        let counted: Vec<&Test> = self
            .tests
            .values()
            .filter(|test| test.kind == kind && test.extra == extra && !test.browser_only)
            .collect();
        let passed = counted.iter().filter(|test| self.verdict(&test.id) == Verdict::Pass).count();
        (counted.len(), passed)
    }

    /// Every test of this kind that does not pass, with the reason that the suite gives.
    fn failures(&self, kind: Kind) -> Vec<String> {
        self.tests
            .values()
            .filter(|test| test.kind == kind && !test.browser_only)
            .filter_map(|test| {
                let verdict = self.verdict(&test.id);
                let why =
                    self.results.get(&test.id).map_or("", |result| result[1].as_str().unwrap_or_default());
                let extra = if test.extra { " (not counted)" } else { "" };
                (verdict != Verdict::Pass).then(|| format!("  {verdict:?} {}{extra}: {why}", test.id))
            })
            .collect()
    }
}

/// The folder of the installed suite.
fn installed() -> PathBuf {
    let folder = std::env::var_os("SKERRY_CACHE_TESTS").map_or_else(
        || {
            // The binary is in TARGET/release, and the suite beside TARGET.
            let binary = process::binary();
            let cache = binary.ancestors().nth(3).expect("a folder above the target folder").to_owned();
            cache.join("http-cache-tests/node_modules/http-cache-tests")
        },
        PathBuf::from,
    );
    assert!(
        folder.join("cli.mjs").is_file(),
        "http-cache-tests is not in {}: install it from npm there, or name its folder in SKERRY_CACHE_TESTS",
        folder.display()
    );
    folder
}

/// A command of the suite's, which takes its settings as npm would hand them over.
fn suite_command(program: &str, folder: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null());
    for (key, value) in settings {
        command.env_remove(format!("npm_config_{key}")).env(format!("npm_package_config_{key}"), value);
    }
    command
}

/// The suite's origin. It ends when this is dropped.
struct Server {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl Server {
    fn start(suite: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the pid file");
        let pidfile = folder.path().join("pid").to_string_lossy().into_owned();
        let settings = [("protocol", "http"), ("port", "0"), ("pidfile", pidfile.as_str())];
        let mut child = suite_command("node", suite, &settings)
            .args(["--no-warnings", "server/server.mjs"])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("node runs the suite's server");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let address = line.strip_prefix("Listening on ")?;
                let port = address.trim_end_matches('/').rsplit_once(':')?.1;
                port.parse::<u16>().ok()
            })
            .expect("the server says where it listens");
        // It warns of what it finds odd; nobody reads that, but somebody must take it.
        thread::spawn(move || lines.for_each(drop));
        Self { child, url: format!("http://127.0.0.1:{port}"), _folder: folder }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn standard_output(what: &str, output: &Output) -> String {
    let problems = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed: {problems}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run_suite() -> Suite {
    let folder = installed();
    let list = suite_command("node", &folder, &[])
        .args(["--no-warnings", "--input-type=module", "--eval", LIST])
        .output()
        .expect("node lists the tests");
    let tests: Vec<Test> =
        serde_json::from_str(&standard_output("the list of tests", &list)).expect("the list is JSON");

    let server = Server::start(&folder);
    let node = Node::with_origin(&server.url).start();
    let base = format!("http://{}", node.public());
    // `timeout` is run in place of node, so that a suite that hangs ends.
    let output = suite_command("timeout", &folder, &[("base", base.as_str()), ("id", "")])
        .args(["300", "node", "--no-warnings", "cli.mjs"])
        .output()
        .expect("timeout of coreutils runs the suite");
    let text = standard_output("the suite", &output);
    let start = text.find('{').unwrap_or_else(|| panic!("no results in {text}"));
    let results = serde_json::from_str(&text[start..]).expect("the results are JSON");
    Suite { tests: tests.into_iter().map(|test| (test.id.clone(), test)).collect(), results }
}

#[test]
fn the_conformance_suite_finds_no_less_than_before() {
    let suite = run_suite();
    for (kind, name) in [(Kind::Required, "required"), (Kind::Optimal, "optional")] {
        eprintln!("{name} behaviours that are not held:");
        for line in suite.failures(kind) {
            eprintln!("{line}");
        }
    }
    for (extra, name) in [(false, "HTTP caching"), (true, "Surrogate-Control, not counted")] {
        let (required, held) = suite.score(Kind::Required, extra);
        let (optional, optimal) = suite.score(Kind::Optimal, extra);
        let (checks, yes) = suite.score(Kind::Check, extra);
        eprintln!(
            "{name}: {held} of {required} required, {optimal} of {optional} optional, {yes} of {checks} checks"
        );
    }
    let (_, required) = suite.score(Kind::Required, false);
    let (_, optimal) = suite.score(Kind::Optimal, false);
    assert!(
        required >= REQUIRED_FLOOR,
        "{required} required behaviours are held, of {REQUIRED_FLOOR} before"
    );
    assert!(optimal >= OPTIMAL_FLOOR, "{optimal} optional behaviours are held, of {OPTIMAL_FLOOR} before");
}
