//! What the author of a policy does, from nothing to a signed file, through the real commands, in each
//! language; and what the commands say when something is wrong. A region router in Rust goes its way, up to
//! a node, in `policy_page`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use skerry_tests::process;

/// Cargo's folder for the tests of this crate. What policies are built from stays there between runs,
/// and so do their folders: a build knows a policy by its path.
const WORK: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/policy-author");

/// An author in the folder of a policy.
struct Author {
    name: String,
    folder: PathBuf,
}

impl Author {
    /// Begins a policy of this world; an earlier one of the same name is gone.
    fn begins(name: &str, world: &str) -> Self {
        Self::begins_in("rust", name, world)
    }

    fn begins_in(language: &str, name: &str, world: &str) -> Self {
        let folder = Path::new(WORK).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(WORK).expect("a folder");
        let author = Self { name: name.to_owned(), folder };
        let folder = author.folder.display().to_string();
        let new = ["policy", "new", "--lang", language, "--world", world, &folder];
        let output = run(&mut command(&process::binary(), Path::new(WORK), &new));
        assert!(output.status.success(), "{}", complaint(&output));
        author
    }

    fn package(&self) -> String {
        format!("{}.policy.wasm", self.name)
    }

    fn runs(&self, arguments: &[&str]) -> Output {
        run(&mut command(&process::binary(), &self.folder, arguments))
    }

    /// What a command prints when it succeeds.
    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.runs(arguments);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {text}\n{}", complaint(&output));
        text
    }

    /// What a command says, on either channel, when it fails.
    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.runs(arguments);
        let words = text(&output) + &complaint(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {words}");
        words
    }

    /// Changes one place of a file.
    #[track_caller]
    fn changes(&self, file: &str, from: &str, to: &str) {
        let path = self.folder.join(file);
        let text = fs::read_to_string(&path).expect("the file");
        assert_eq!(text.matches(from).count(), 1, "{from:?} stands once in {file}");
        fs::write(path, text.replace(from, to)).expect("the file is written");
    }
}

/// A command in a folder; policies share what they are built from, and fetch nothing: it is what the
/// workspace is built from too.
fn command(program: &Path, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command
        .arg("200")
        .arg(program)
        .args(arguments)
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", Path::new(WORK).join("target"))
        .env("CARGO_NET_OFFLINE", "true")
        .stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("timeout of coreutils runs the command")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

/// The digest that `skerry policy build` and `check` print.
fn digest(text: &str) -> String {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("digest"));
    line.expect("a digest").trim().to_owned()
}

/// From nothing to a policy that a node with the author's key takes.
fn the_whole_way(name: &str, world: &str) {
    let author = Author::begins(name, world);
    let tests = run(&mut command(Path::new("cargo"), &author.folder, &["test", "--release", "--quiet"]));
    assert!(tests.status.success(), "{}\n{}", text(&tests), complaint(&tests));
    assert_has(&text(&tests), &["3 passed"]);

    let built = author.succeeds(&["policy", "build"]);
    let package = author.package();
    assert_has(&built, &[&package, "MiB"]);
    let digest_of_build = digest(&built);

    // By its file and by its folder.
    let tested = author.succeeds(&["policy", "test", &package]);
    assert_has(&tested, &["ok  ", &format!("{name} 0.1.0: 3 of 3 hold")]);
    let report: Value = serde_json::from_str(&author.succeeds(&["policy", "test", "--json"])).expect("JSON");
    assert_eq!((&report["failed"], &report["digest"]), (&0.into(), &digest_of_build.as_str().into()));
    assert!(report["vectors"][0]["fuel"].as_u64() > Some(0), "{report}");

    let checked = author.succeeds(&["policy", "check", &package]);
    assert_has(&checked, &[&format!("{name} 0.1.0"), world, "signature  none"]);
    assert_eq!(digest(&checked), digest_of_build);

    author.succeeds(&["policy", "keygen", "--out", "my.key"]);
    author.succeeds(&["policy", "keygen", "--out", "other.key"]);
    assert_has(&author.fails(&["policy", "check", &package, "--key", "my.pub"]), &["is not signed"]);
    let signed = author.succeeds(&["policy", "sign", &package, "--key", "my.key"]);
    assert_has(&signed, &[&package, "is signed by key"]);
    let checked = author.succeeds(&["policy", "check", &package, "--key", "my.pub"]);
    assert_has(&checked, &["signature  by the given key"]);
    assert_eq!(digest(&checked), digest_of_build, "a signature is no part of the digest");
    let refused = author.fails(&["policy", "check", &package, "--key", "other.pub"]);
    assert_has(&refused, &["which is not trusted here"]);
    author.succeeds(&["policy", "test", &package]);
}

#[test]
fn a_preload_planner_goes_the_whole_way() {
    the_whole_way("plans", "preload-planner");
}

#[test]
fn a_super_peer_scheduler_goes_the_whole_way() {
    the_whole_way("schedules", "super-peer-scheduler");
}

#[test]
fn a_trap_names_the_author_s_function_and_line() {
    let author = Author::begins("traps", "region-router");
    let source = "
/// Reads a row that is not there.
#[inline(never)]
fn beyond_the_last(candidates: &[Candidate]) -> u32 {
    candidates[std::hint::black_box(candidates.len())].node
}
";
    let export = "skerry_policy_sdk::export_region_router!(Policy);\n";
    author.changes("src/lib.rs", export, &format!("{export}{source}"));
    author.changes(
        "src/lib.rs",
        "if fit.is_empty() {",
        "if fit.is_empty() && beyond_the_last(candidates) > 0 {",
    );
    // The first vectors have links that are fit; in the last nobody is.
    let said = author.fails(&["policy", "test"]);
    assert_has(&said, &["FAIL  nobody is fit", "expected  no opinion", "nothing: trap", "2 of 3 hold"]);
    assert_has(&said, &["- beyond_the_last\n", "traps/src/lib.rs:", "panicked at src/lib.rs:"]);
}

#[test]
fn a_vector_that_fails_says_what_was_expected_and_what_came() {
    let author = Author::begins("expects", "region-router");
    author.changes("manifest.toml", "expect = [2, 1, 0]", "expect = [0, 1, 2]");
    let said = author.fails(&["policy", "test"]);
    assert_has(
        &said,
        &["FAIL  the client's region", "expected  rows [0, 1, 2]", "got       rows [2, 1, 0]", "2 of 3 hold"],
    );
    let output = author.runs(&["policy", "test", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), &report["failed"]), (Some(1), &1.into()));

    // A wrong manifest is told before anything is built.
    author.changes("manifest.toml", "version = ", "vesrion = ");
    let said = author.fails(&["policy", "build"]);
    assert_has(&said, &["manifest.toml", "line 3", "`vesrion`", "`version`"]);
    author.changes("manifest.toml", "vesrion = ", "version = ");

    // Nor is anything packed that does not compile.
    author.changes("src/lib.rs", "pub struct Policy;", "pub struct Polity;");
    let said = author.fails(&["policy", "build"]);
    assert_has(&said, &["src/lib.rs", "cannot find type `Policy`", "cargo could not build"]);
    author.changes("src/lib.rs", "pub struct Polity;", "pub struct Policy;");

    // A manifest that promises another world than the code exports.
    let manifest = fs::read_to_string(author.folder.join("manifest.toml")).expect("the manifest");
    let (head, _) = manifest.split_once("[[vectors]]").expect("vectors");
    let other = head.replace("\"region-router\"", "\"preload-planner\"");
    fs::write(author.folder.join("manifest.toml"), other).expect("the manifest is written");
    assert_has(&author.fails(&["policy", "check"]), &["it is no `preload-planner`"]);
}

#[test]
fn a_policy_is_measured_beside_the_built_in_verdict() {
    let author = Author::begins("measured", "region-router");
    let words = author.succeeds(&["policy", "bench", "--calls", "500"]);
    assert_has(
        &words,
        &["500 calls of 60 rows", "fresh", "reused", "built-in", "fallbacks   ", "of 4.0 MiB"],
    );
    let package = author.package();
    let json = ["policy", "bench", &package, "--rows", "5", "--calls", "100", "--json"];
    let report: Value = serde_json::from_str(&author.succeeds(&json)).expect("JSON");
    let world = &report["worlds"][0];
    assert_eq!((&report["rows"], &world["world"]), (&5.into(), &"region-router".into()));
    for kind in ["fresh", "reused", "builtin"] {
        let figures = &world[kind];
        assert!(figures["p50_us"].as_f64() > Some(0.0), "{kind}: {figures}");
        assert!(figures["p99_us"].as_f64() >= figures["p50_us"].as_f64(), "{kind}: {figures}");
    }
    // A machine that is busy may be late, and that is all.
    let fallbacks = world["fresh"]["fallbacks"].as_object().expect("causes");
    assert!(fallbacks.keys().all(|cause| cause == "deadline"), "{world}");
    assert!(world["fresh"]["fuel"].as_u64() < world["budget"]["fuel"].as_u64(), "{world}");
}

#[test]
fn a_folder_that_is_in_use_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("mine"), "mine").expect("a file");
    let path = folder.path().join("near");
    let near = path.display().to_string();
    let output = process::run(&["policy", "new", &near]);
    assert_eq!(output.status.code(), Some(0), "{}", complaint(&output));
    let output = process::run(&["policy", "new", &near]);
    assert_eq!(output.status.code(), Some(1));
    assert_has(&complaint(&output), &[&near, "is there already"]);
    let output = process::run(&["policy", "new", &folder.path().join("Near").display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    assert_has(&complaint(&output), &["lowercase letters, digits and hyphens"]);
}

/// Programs that are not in the path are not found; the binary itself is named by its path.
#[test]
fn a_machine_without_rust_is_told_what_to_install() {
    let folder = tempfile::tempdir().expect("a folder");
    let near = folder.path().join("near").display().to_string();
    for (arguments, code) in [(&["policy", "new", &near][..], 0), (&["policy", "build", &near][..], 1)] {
        let output = Command::new(process::binary())
            .args(arguments)
            .env("PATH", folder.path())
            .env_remove("CARGO")
            .env_remove("RUSTC")
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(code), "{}", complaint(&output));
        if code == 1 {
            assert_has(&complaint(&output), &["is not here", "https://rustup.rs"]);
        }
    }
}

#[test]
fn what_is_no_policy_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("near.policy.wasm");
    for (bytes, reason) in [
        (&b"no wasm"[..], "no wasm"),
        (&b"\0asm\x01\0\0\0"[..], "a core module"),
        (&b"\0asm\x0d\0\x01\0"[..], "a component without a manifest"),
    ] {
        fs::write(&file, bytes).expect("the file is written");
        let path = file.display().to_string();
        for command in ["check", "test", "bench"] {
            let output = process::run(&["policy", command, &path]);
            assert_eq!(output.status.code(), Some(1), "{command}: {}", complaint(&output));
            assert_has(&complaint(&output), &[&path, reason]);
        }
    }
}

/// Runs a tool of another language in the policy's folder.
#[track_caller]
fn tool(author: &Author, program: &str, arguments: &[&str]) {
    let output = run(&mut command(Path::new(program), &author.folder, arguments));
    assert!(output.status.success(), "{program} {arguments:?}: {}{}", text(&output), complaint(&output));
}

#[test]
fn javascript_goes_the_whole_way() {
    for world in ["region-router", "preload-planner", "super-peer-scheduler"] {
        let author = Author::begins_in("js", &format!("js-{world}"), world);
        tool(&author, "npm", &["test", "--silent"]);
        assert_has(&author.fails(&["policy", "build"]), &["npm install"]);
        tool(&author, "npm", &["install", "--silent", "--no-audit", "--no-fund"]);
        author.succeeds(&["policy", "build"]);
        assert_has(&author.succeeds(&["policy", "test", &author.package()]), &["hold"]);
    }
    // An error names the author's line.
    let author = Author { name: "js-region-router".into(), folder: Path::new(WORK).join("js-region-router") };
    let path = author.folder.join("policy.js");
    let source = fs::read_to_string(&path).expect("the policy");
    let at = source.find("export function route").expect("the function");
    let body = at + source[at..].find('{').expect("its body") + 1;
    fs::write(&path, format!("{} nobody.knows();{}", &source[..body], &source[body..])).expect("the policy");
    author.succeeds(&["policy", "build"]);
    assert_has(&author.fails(&["policy", "test", &author.package()]), &["policy.js:", "nobody", "FAIL"]);
}

#[test]
fn python_goes_the_whole_way_for_planning_alone() {
    let author = Author::begins_in("python", "py-planner", "preload-planner");
    tool(&author, "python3", &["-m", "unittest", "--quiet"]);
    tool(&author, "python3", &["-m", "venv", ".venv"]);
    tool(&author, ".venv/bin/pip", &["install", "--quiet", "-r", "requirements.txt"]);
    author.succeeds(&["policy", "build"]);
    assert_has(&author.succeeds(&["policy", "test", &author.package()]), &["hold"]);
    let new = ["policy", "new", "--lang", "python", "--world", "region-router", "py-router"];
    let output = run(&mut command(&process::binary(), Path::new(WORK), &new));
    assert_eq!(output.status.code(), Some(1));
    assert_has(&complaint(&output), &["12 MiB", "preload-planner alone"]);
}

/// A policy that does harm of the kind that the request's region asks for. Each kind, and what the node
/// may call what became of it: an interpreter has limits of its own, and the clock may be first.
struct Harm {
    region: u32,
    what: &'static str,
    causes: &'static [&'static str],
}

const HARMS: [Harm; 7] = [
    Harm { region: 1, what: "loops for ever", causes: &["deadline", "fuel"] },
    Harm { region: 2, what: "takes all memory", causes: &["memory", "deadline", "fuel", "trap"] },
    Harm { region: 3, what: "calls itself for ever", causes: &["stack", "trap"] },
    Harm { region: 4, what: "logs for ever", causes: &["flood", "deadline", "fuel"] },
    Harm { region: 5, what: "names a row that is not there", causes: &["bad-index", "trap"] },
    Harm { region: 6, what: "says too much", causes: &["flood", "deadline"] },
    Harm { region: 7, what: "fails", causes: &["trap"] },
];

/// Runs a vector for each harm, with a good one after each, and looks at what became of them.
#[track_caller]
fn is_contained(author: &Author, world: &str, limits_ms: f64) {
    let path = author.folder.join("manifest.toml");
    let manifest = fs::read_to_string(&path).expect("the manifest");
    let mut manifest = manifest[..manifest.find("[[vectors]]").expect("vectors")].to_owned();
    let mut vector = |name: &str, region: u32| {
        manifest.push_str(&format!(
            "[[vectors]]\nname = \"{name}\"\nworld = \"{world}\"\nexpect = [0]\n\
             request = {{ region = {region} }}\nrows = [{{}}, {{}}]\n\n"
        ));
    };
    for harm in &HARMS {
        vector(harm.what, harm.region);
        vector(&format!("a good call after one that {}", harm.what), 0);
    }
    fs::write(path, manifest).expect("the manifest");
    author.succeeds(&["policy", "build"]);
    let output = author.runs(&["policy", "test", "--json", &author.package()]);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output), complaint(&output)));
    let vectors = report["vectors"].as_array().expect("vectors");
    assert_eq!(vectors.len(), 2 * HARMS.len());
    for (harm, pair) in HARMS.iter().zip(vectors.chunks(2)) {
        let cause = pair[0]["cause"].as_str().expect("a cause");
        assert!(harm.causes.contains(&cause), "{}: {cause}", harm.what);
        // Within twice its time, and what a busy machine adds.
        let took = pair[0]["took_us"].as_f64().expect("a time") / 1000.0;
        assert!(took < 2.0 * limits_ms + 1000.0, "{} took {took} ms", harm.what);
        assert_eq!(pair[1]["held"], true, "a good call after one that {}: {}", harm.what, pair[1]);
    }
}

#[test]
fn javascript_that_does_harm_is_contained() {
    let author = Author::begins_in("js", "js-harm", "region-router");
    tool(&author, "npm", &["install", "--silent", "--no-audit", "--no-fund"]);
    let source = r#"
export function route(request, candidates, host) {
  switch (request.region) {
    case 1: for (;;);
    case 2: { const hog = []; for (;;) hog.push(new Uint8Array(1 << 20).fill(1)); }
    case 3: return [route(request, candidates, host)];
    case 4: for (;;) host.log("info", "again");
    case 5: return { tag: "ranked", val: [{ row: 99, weight: 1 }] };
    case 6: return { tag: "invalid", val: "x".repeat(1 << 20) };
    case 7: throw new Error("on purpose");
  }
  return { tag: "ranked", val: [{ row: 0, weight: 1 }] };
}
"#;
    fs::write(author.folder.join("policy.js"), source).expect("the policy");
    is_contained(&author, "region-router", 5.0);
}

#[test]
fn python_that_does_harm_is_contained() {
    let author = Author::begins_in("python", "py-harm", "preload-planner");
    tool(&author, "python3", &["-m", "venv", ".venv"]);
    tool(&author, ".venv/bin/pip", &["install", "--quiet", "-r", "requirements.txt"]);
    let source = r#"
class Loud(Exception):
    pass


def plan(request, items, host):
    if request.region == 1:
        while True:
            pass
    if request.region == 2:
        hog = []
        while True:
            hog.append(bytearray(1 << 20))
    if request.region == 3:
        return plan(request, items, host) + [0]
    if request.region == 4:
        while True:
            host.log(host.Level.INFO, "again")
    if request.region == 5:
        return [99]
    if request.region == 6:
        raise Loud("x" * (1 << 20))
    if request.region == 7:
        raise Loud("on purpose")
    return [0]
"#;
    fs::write(author.folder.join("policy.py"), source).expect("the policy");
    is_contained(&author, "preload-planner", 200.0);
}
