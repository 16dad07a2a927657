//! A policy that a compiler cannot digest, pushed to a running node: the push fails and names the limit
//! that was met, the node serves as before, and nothing of the compiler is left.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use skerry_policy::{World, package};
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::policies::{self, Author};
use skerry_tests::reply::Reply;

/// Longest compilation where the clock is to end it.
const LITTLE_TIME: Duration = Duration::from_secs(2);
/// Longest compilation where memory is to end it.
const MUCH_TIME: Duration = Duration::from_secs(60);
/// The least that may be configured, and less than the compiler wants for the bomb.
const LITTLE_MEMORY: u64 = 256 << 20;
/// More than it comes to within [`LITTLE_TIME`].
const MUCH_MEMORY: u64 = 4 << 30;
/// At most one GET in a hundred of what is in memory may take longer while the node compiles.
const HOT: Duration = Duration::from_millis(50);

/// A component of 16 KB. Each of its loops may leave each of its locals changed, and the compiler follows
/// every local through every loop: a million values, for more than ten seconds and 2 GiB.
fn bomb() -> Vec<u8> {
    let (locals, loops) = (1000, 1000);
    let step = |local: usize| format!("(local.set {local} (i64.add (local.get {local}) (i64.const 1)))");
    let text = format!(
        "(component (core module (func (param i32) (local {}) {} {} {})))",
        "i64 ".repeat(locals),
        "loop ".repeat(loops),
        (1..=locals).map(step).collect::<String>(),
        "(br_if 0 (local.get 0)) end ".repeat(loops),
    );
    wat::parse_str(text).expect("a component")
}

/// A node that trusts an author and compiles within limits, and a bomb that the author has signed.
struct Scene {
    author: Author,
    node: Node,
    bomb: PathBuf,
    /// Where the node has its content from.
    _origin: Origin,
}

impl Scene {
    fn new(time: Duration, memory_bytes: u64) -> Self {
        let (author, origin) = (Author::new(), Origin::start());
        origin.reply("/hot", Reply::ok(vec![7_u8; 16 << 10]).fresh());
        let node = Node::in_front_of(&origin)
            .text("policy.signers", "author", &author.public)
            .set("policy", "compile_seconds", time.as_secs())
            .set("policy", "compile_memory_bytes", memory_bytes)
            .start();
        node.hit("/hot");
        let manifest = "name = \"bomb\"\nversion = \"1.0.0\"\nworlds = [\"region-router\"]\n";
        let packed = package::pack(&bomb(), manifest).expect("a package");
        let bomb = node.folder().join("bomb.policy.wasm");
        std::fs::write(&bomb, author.sign(&packed)).expect("a file");
        Self { author, node, bomb, _origin: origin }
    }

    fn push(&self, file: &Path) -> Output {
        self.node.command(&["policy", "push", &file.to_string_lossy()])
    }

    /// Whether a process that the node has started is there.
    fn compiles(&self) -> bool {
        let pid = self.node.pid().to_string();
        let found = Command::new("pgrep").args(["-P", &pid]).output().expect("pgrep of procps runs");
        !found.stdout.is_empty()
    }

    /// Pushes the bomb, which is refused, and gets what is hot again and again meanwhile.
    fn bombed(&self) -> Bombed {
        thread::scope(|scope| {
            let push = scope.spawn(|| {
                let begun = Instant::now();
                (self.push(&self.bomb), begun.elapsed())
            });
            let (mut gets, mut in_a_child) = (Vec::new(), false);
            while !push.is_finished() {
                in_a_child = in_a_child || self.compiles();
                let begun = Instant::now();
                let answer = self.node.get("/hot");
                gets.push(begun.elapsed());
                assert!(answer.status == 200 && answer.complete && answer.is_hit(), "{:?}", answer.headers);
            }
            let (output, took) = push.join().expect("a push");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            Bombed { said, took, gets, in_a_child }
        })
    }

    /// Nothing of the bomb is left but its traces, and a good policy is taken.
    fn is_well(&self, reason: &str) {
        assert!(!self.compiles(), "a child of the node is left");
        assert_eq!(self.node.metric("skerry_policy_refused_total", &[]), 1.0);
        self.node.must_log(&["a policy was not taken", reason]);
        let good = self.node.folder().join("good.policy.wasm");
        let packed = policies::packed(World::RegionRouter, "1.0.0");
        std::fs::write(&good, self.author.sign(&packed)).expect("a file");
        let output = self.push(&good);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What became of a bomb, and of the GETs meanwhile.
struct Bombed {
    said: String,
    took: Duration,
    gets: Vec<Duration>,
    /// Whether the node was seen to have a child.
    in_a_child: bool,
}

#[test]
fn a_compilation_without_end_is_ended_and_the_node_serves_meanwhile() {
    let scene = Scene::new(LITTLE_TIME, MUCH_MEMORY);
    let Bombed { said, took, mut gets, in_a_child } = scene.bombed();
    let reason = "it does not compile: it takes more than 2 s";
    assert!(said.contains(reason), "{said}");
    assert!(took >= LITTLE_TIME && took < 4 * LITTLE_TIME, "the push took {took:?}");
    assert!(in_a_child, "the node compiles by itself");
    gets.sort_unstable();
    let (count, p99) = (gets.len(), gets[gets.len() * 99 / 100]);
    assert!(count > 100, "only {count} GETs in {took:?}");
    assert!(p99 < HOT, "one of a hundred of {count} GETs took more than {p99:?}");
    scene.is_well(reason);
}

#[test]
fn a_compilation_that_takes_all_memory_is_ended() {
    let scene = Scene::new(MUCH_TIME, LITTLE_MEMORY);
    let Bombed { said, took, gets, .. } = scene.bombed();
    let reason = "it does not compile: it takes more than 256 MiB of memory";
    assert!(said.contains(reason), "{said}");
    assert!(took < MUCH_TIME / 2, "the push took {took:?}");
    assert!(!gets.is_empty());
    scene.is_well(reason);
}
