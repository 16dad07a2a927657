//! The page for authors of policies (`plugins/README.md`), followed to the letter: each command is run
//! where the page has led its reader to, against a node that has what the page puts into its configuration,
//! and what the page shows must come.
//!
//! Only the address of the node is another (`SKERRY_NODE`), and the recording and the clients that the page
//! takes for granted are made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::{policies, process, wait};

/// From where tests run: the folder of their package.
const PAGE: &str = "../plugins/README.md";
/// Where the reader begins: the same folder in every run, since a build knows a policy by its path.
const WORK: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/policy-page");
/// What policies are built from, which stays there between runs; `policy_author` has it there too.
const BUILT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/policy-author/target");
/// Longest time of the commands of a block, seconds; the first builds all that a policy is built from.
const PATIENCE: &str = "400";
const SOON: Duration = Duration::from_secs(30);

/// What the page has for the reader's public key.
const KEY: &str = "RWQ...";
/// Where the page has the reader put a node's recording.
const RECORDING: &str = "yesterday/";
const ROUTER: &str = "region-router";
/// Clients that ask a node at a time.
const CLIENTS: u64 = 12;

/// What becomes of a block: all kinds that the page may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `sh`: it is run.
    Commands,
    /// `toml`: it goes into the configuration of the operator's node.
    Configuration,
    /// `text`: it is not run, since it is what the commands before it print.
    Output,
}

/// A fenced block of the page.
#[derive(Debug)]
struct Block {
    kind: Kind,
    /// The line of its opening fence.
    line: usize,
    text: String,
}

/// The blocks of a page. Panics when one is of no kind that there is, or is code without fences.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (line, text) in (1..).zip(page.lines()) {
        match (open.take(), text.trim_start().strip_prefix("```")) {
            (Some(block), Some(_)) => blocks.push(block),
            (Some(mut block), None) => {
                block.text.push_str(text);
                block.text.push('\n');
                open = Some(block);
            }
            (None, Some(word)) => {
                let kind = match word.trim() {
                    "sh" => Kind::Commands,
                    "toml" => Kind::Configuration,
                    "text" => Kind::Output,
                    other => panic!("line {line}: what is to become of a block `{other}`?"),
                };
                open = Some(Block { kind, line, text: String::new() });
            }
            (None, None) => {
                let code = ["    ", "\t", "~~~"].iter().any(|begin| text.starts_with(begin));
                assert!(!code, "line {line}: code stands between fences of ```");
            }
        }
    }
    assert!(open.is_none(), "the last block has no end");
    blocks
}

/// A line without what may be another each time: every number is 0, every space is one.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    for letter in line.split_ascii_whitespace().collect::<Vec<_>>().join(" ").chars() {
        let letter = if letter.is_ascii_digit() { '0' } else { letter };
        if letter != '0' || !plain.ends_with('0') {
            plain.push(letter);
        }
    }
    plain
}

/// The first lines that the page shows and that were not printed; a line `...` stands for any number of
/// lines.
fn missing(printed: &str, shown: &str) -> Option<String> {
    let printed: Vec<String> = printed.lines().map(plain).collect();
    let shown: Vec<String> = shown.lines().map(plain).collect();
    let mut rest = printed.as_slice();
    for part in shown.split(|line| line == "...").filter(|part| !part.is_empty()) {
        match rest.windows(part.len()).position(|lines| lines == part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return Some(part.join("\n")),
        }
    }
    None
}

/// Somebody who does what the page says.
struct Reader {
    folder: PathBuf,
    /// What the last commands have printed.
    printed: String,
    /// The operator's node.
    node: Option<Node>,
}

impl Reader {
    fn new() -> Self {
        let _ = fs::remove_dir_all(WORK);
        fs::create_dir_all(WORK).expect("a folder");
        Self { folder: WORK.into(), printed: String::new(), node: None }
    }

    fn does(&mut self, block: &Block) {
        match block.kind {
            Kind::Commands => {
                if block.text.contains(RECORDING) {
                    record(&self.folder.join(RECORDING));
                }
                if let Some(node) = &self.node {
                    clients_ask(node);
                }
                self.runs(block);
            }
            Kind::Configuration => self.has_configured(block),
            Kind::Output => {
                let missing = missing(&self.printed, &block.text);
                assert_eq!(missing, None, "line {}: not in what was printed:\n{}", block.line, self.printed);
            }
        }
    }

    /// Runs the commands, and stays in the folder that they lead to.
    fn runs(&mut self, block: &Block) {
        let binary = process::binary();
        assert!(binary.ends_with("skerry"), "{}: the page says `skerry`", binary.display());
        let mut path = binary.parent().expect("a folder").as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let led_to = Path::new(WORK).join("led-to");
        let script = format!("set -e\n{}pwd >'{}'\n", block.text, led_to.display());
        let mut command = Command::new("timeout");
        command
            .args([PATIENCE, "bash", "-c", &script])
            .current_dir(&self.folder)
            .env("PATH", path)
            .env("CARGO_TARGET_DIR", BUILT)
            .env("CARGO_NET_OFFLINE", "true")
            .stdin(Stdio::null());
        if let Some(node) = &self.node {
            command.env("SKERRY_NODE", format!("http://{}", node.admin()));
        }
        let output = command.output().expect("timeout of coreutils runs bash");
        self.printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "line {}: {}\n{complaint}", block.line, self.printed);
        let folder = fs::read_to_string(led_to).expect("a folder");
        self.folder = folder.trim_end().into();
    }

    /// Has an operator start a node with this in its configuration.
    fn has_configured(&mut self, block: &Block) {
        assert!(self.node.is_none(), "line {}: what is a second configuration for?", block.line);
        let public = fs::read_to_string(self.folder.join("author.pub")).expect("the reader's key");
        assert!(block.text.contains(KEY), "line {}: where does the key go?", block.line);
        let text = block.text.replace(KEY, public.lines().last().expect("a key"));
        let mut builder = builder();
        let mut section = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name;
            } else if let Some((key, value)) = line.split_once('=') {
                builder = builder.set(section, key.trim(), value.trim());
            }
        }
        self.node = Some(builder.start());
    }
}

/// A node that keeps every decision, and asks what is in shadow each time.
fn builder() -> NodeBuilder {
    Node::with_origin("http://127.0.0.1:9").set("policy.decisions", "calls_one_in", 1).set(
        "policy.rollout",
        "compare_one_in",
        1,
    )
}

/// Clients ask the node for links; the policy that is on its way, if there is one, was asked too.
fn clients_ask(node: &Node) {
    for client in 0..CLIENTS {
        let asked = json!({ "inputs": policies::routing(client), "client": client });
        let answer = node.admin_post("/policy/decide", &asked);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    wait::until("the policy to be asked", SOON, || {
        let list: Value = serde_json::from_str(&node.admin_get("/policy").text()).expect("JSON");
        let worlds = list["worlds"].as_array().expect("worlds");
        let slot = worlds.iter().find(|slot| slot["world"] == ROUTER).expect("the router's");
        let candidate = &slot["candidate"];
        candidate.is_null() || candidate["rollout"]["calls"].as_u64() > Some(0)
    });
}

/// What a node has recorded on another day.
fn record(folder: &Path) {
    let node = builder().text("policy.decisions", "record_dir", &folder.to_string_lossy()).start();
    clients_ask(&node);
    wait::until("the recording", SOON, || {
        let text = fs::read_to_string(folder.join("decisions-00000001.jsonl"));
        text.is_ok_and(|text| text.lines().count() as u64 == CLIENTS + 1)
    });
}

#[test]
fn whoever_follows_the_page_brings_a_policy_to_a_node() {
    let page = fs::read_to_string(PAGE).expect("the page");
    let mut reader = Reader::new();
    for block in blocks(&page) {
        reader.does(&block);
    }
    let node = reader.node.expect("a node");
    for step in ["taken", "advanced", "rolled-back"] {
        let steps = node.metric("skerry_policy_changes_total", &[("world", ROUTER), ("step", step)]);
        assert_eq!(steps, 1.0, "{step}");
    }
}

#[test]
fn blocks_are_found_with_their_kind_and_line() {
    let found = blocks("One:\n```sh\na\nb\n```\n\n  ```text\n    c\n  ```\n");
    let found: Vec<_> = found.iter().map(|block| (block.kind, block.line, block.text.as_str())).collect();
    assert_eq!(found, [(Kind::Commands, 2, "a\nb\n"), (Kind::Output, 7, "    c\n")]);
}

#[test]
#[should_panic(expected = "line 2: what is to become of a block ``?")]
fn a_block_that_is_not_marked_is_noticed() {
    blocks("New:\n```\nskerry policy anew\n```\n");
}

#[test]
#[should_panic(expected = "line 3: code stands between fences")]
fn code_without_fences_is_noticed() {
    blocks("New:\n\n    skerry policy anew\n");
}

#[test]
fn what_is_shown_is_compared_but_for_numbers_and_spaces() {
    let printed = "near 0.1.0: 3 of 3 hold\nfresh   23.7   38942\nlast\n";
    for shown in [
        "near 0.2.0: 4 of 4 hold\nfresh 1.5 7\n",
        "fresh   0.1 9\n...\n",
        "...\nnear 0.1.0: 1 of 1 hold\n...\nlast",
    ] {
        assert_eq!(missing(printed, shown), None, "{shown}");
    }
    for shown in
        ["near 0.1.0: 3 of 3 fail\n", "last\n...\nfresh 23.7 38942\n", "near 0.1.0: 3 of 3 hold\nlast\n"]
    {
        assert!(missing(printed, shown).is_some(), "{shown}");
    }
}
