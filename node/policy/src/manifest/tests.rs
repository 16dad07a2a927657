use super::*;
use crate::rows::{Answer, Choice, Inputs, PeerCandidate, RouteCandidate, RouteRequest};

const WHOLE: &str = r#"
name = "near-first"
version = "1.2.3"
worlds = ["region-router", "super-peer-scheduler"]
reuse = true
counters = ["spilled", "far_away"]
tables = ["prices"]

[limits]
time_ms = 3
memory_bytes = 1_048_576
fuel = 2_000_000

[[vectors]]
name = "the near one is first"
world = "region-router"
now = 1_700_000_000_000
request = { client = 18446744073709551615, region = 7, seed = 1 }
rows = [
    { node = 1, region = 7, capacity-kbps = 1000, health = 1000 },
    { node = 2, distance-us = 4294967295 },
]
tables = [{ name = "prices", key = 7, value = -3 }]
expect = [0, 1]

[[vectors]]
name = "a swarm that starves"
world = "super-peer-scheduler"
expect = [1]
more_copies = 2
[vectors.request]
wanted = 1
[[vectors.rows]]
super-peer = 1
[[vectors.rows]]
held = 1000

[[vectors]]
name = "no health"
world = "region-router"
rows = [{}]
invalid = true
"#;

/// A manifest with these lines after the three that it must have.
fn with(more: &str) -> Result<Manifest, ManifestError> {
    let head = "name = \"a\"\nversion = \"1.0.0\"\nworlds = [\"region-router\", \"super-peer-scheduler\"]\n";
    Manifest::parse(&format!("{head}{more}"))
}

fn error(more: &str) -> String {
    with(more).unwrap_err().to_string()
}

/// A vector with these lines after its name and its world.
fn vector(more: &str) -> String {
    error(&format!("[[vectors]]\nname = \"v\"\nworld = \"region-router\"\n{more}"))
}

#[test]
fn a_whole_manifest_is_read() {
    let manifest = Manifest::parse(WHOLE).unwrap();
    assert_eq!(manifest.name, "near-first");
    assert_eq!(manifest.version, Version::new(1, 2, 3));
    assert_eq!(manifest.worlds, [World::RegionRouter, World::SuperPeerScheduler]);
    assert!(manifest.reuse);
    assert_eq!(manifest.counters, ["spilled", "far_away"]);
    assert_eq!(manifest.tables, ["prices"]);
    let limits = Limits { time_ms: Some(3), memory_bytes: Some(1 << 20), fuel: Some(2_000_000) };
    assert_eq!(manifest.limits, limits);

    let [near, swarm, unwell] = &manifest.vectors[..] else { panic!("three vectors") };
    assert_eq!((near.name.as_str(), near.now), ("the near one is first", 1_700_000_000_000));
    assert_eq!(near.tables, [TableEntry { name: "prices".into(), key: 7, value: -3 }]);
    assert_eq!(near.expected, Expectation::Ranked(vec![0, 1]));
    let first =
        RouteCandidate { node: 1, region: 7, capacity_kbps: 1000, health: 1000, ..RouteCandidate::default() };
    let second = RouteCandidate { node: 2, distance_us: u32::MAX, ..RouteCandidate::default() };
    let request = RouteRequest { client: u64::MAX, region: 7, seed: 1, ..RouteRequest::default() };
    assert_eq!(near.inputs, Inputs::RegionRouter { request, candidates: vec![first, second] });

    assert_eq!(swarm.expected, Expectation::Scheduled { rows: vec![1], more_copies: 2 });
    let Inputs::SuperPeerScheduler { request, candidates } = &swarm.inputs else { panic!("{swarm:?}") };
    assert_eq!(request.wanted, 1);
    let of_super_peer = PeerCandidate { super_peer: 1, ..PeerCandidate::default() };
    let of_peer = PeerCandidate { held: 1000, ..PeerCandidate::default() };
    assert_eq!(candidates, &[of_super_peer, of_peer]);
    assert_eq!((unwell.inputs.rows(), &unwell.expected), (1, &Expectation::Invalid));
}

#[test]
fn what_is_left_out_has_its_default() {
    let manifest = with("").unwrap();
    assert!(!manifest.reuse);
    assert_eq!(manifest.limits, Limits::default());
    let lists = (manifest.vectors.len(), manifest.counters.len(), manifest.tables.len());
    assert_eq!(lists, (0, 0, 0));
}

#[test]
fn worlds_have_the_names_of_the_contract() {
    for world in World::ALL {
        assert_eq!(world.name().parse::<World>(), Ok(world));
        assert_eq!(serde_json::to_value(world).unwrap(), world.name());
    }
    let error = "region-routr".parse::<World>().unwrap_err().to_string();
    assert_eq!(error, "there is no world `region-routr`; the nearest is `region-router`");
}

#[test]
fn an_unknown_key_is_named_whole_with_its_line_and_the_nearest() {
    assert_eq!(
        error("reused = true"),
        "manifest line 4: unknown key `reused`; the nearest known key is `reuse`"
    );
    assert_eq!(
        error("vector = []"),
        "manifest line 4: unknown key `vector`; the nearest known key is `vectors`"
    );
    assert_eq!(
        error("[limits]\ntime = 3"),
        "manifest line 5: unknown key `limits.time`; the nearest known key is `time_ms`"
    );
    assert_eq!(
        error("limits.fuels = 3"),
        "manifest line 4: unknown key `limits.fuels`; the nearest known key is `fuel`"
    );
    assert_eq!(
        vector("rows = [\n{},\n{ healthy = 1 }]"),
        "manifest line 9: unknown key `vectors[0].rows[1].healthy`; the nearest known key is `health`"
    );
    assert_eq!(
        vector("request = { regoin = 1 }"),
        "manifest line 7: unknown key `vectors[0].request.regoin`; the nearest known key is `region`"
    );
    assert_eq!(
        vector("rows = [{ used_kbps = 1 }]"),
        "manifest line 7: unknown key `vectors[0].rows[0].used_kbps`; the nearest known key is `used-kbps`"
    );
    assert_eq!(
        vector("expected = [0]"),
        "manifest line 7: unknown key `vectors[0].expected`; the nearest known key is `expect`"
    );
}

#[test]
fn a_missing_key_is_named_with_what_to_write() {
    let missing = |text| Manifest::parse(text).unwrap_err().to_string();
    assert_eq!(missing(""), "manifest line 1: `name` is missing; add `name = \"…\"`");
    assert_eq!(missing("name = \"a\""), "manifest line 1: `version` is missing; add `version = \"1.0.0\"`");
    assert_eq!(
        error("[[vectors]]\nname = \"v\"\n"),
        "manifest line 4: `vectors[0].world` is missing; add the world that the vector is for, as `world = \"region-router\"`"
    );
    let rowless = vector("expect = [0]");
    assert_eq!(rowless, "manifest line 4: `vectors[0].rows` is missing; add `rows = [{ … }]`, at least one");
}

#[test]
fn a_wrong_type_is_named_with_its_key() {
    assert_eq!(error("reuse = 1"), "manifest line 4: `reuse`: invalid type: integer `1`, expected a boolean");
    assert_eq!(
        vector("rows = [{ health = -1 }]"),
        "manifest line 7: `vectors[0].rows[0].health`: invalid value: integer `-1`, expected u32"
    );
    assert_eq!(
        error("[limits]\nfuel = 0"),
        "manifest line 5: `limits.fuel`: invalid value: integer `0`, expected at least 1"
    );
    for (text, key) in [
        ("limits = [1, 2, 3]", "limits"),
        ("vectors = [[\"v\"]]", "vectors[0]"),
        ("vectors = 1", "vectors"),
        ("[[vectors]]\nworld = 1", "vectors[0].world"),
        ("[[vectors]]\nworld = \"region-router\"\nrequest = [1]", "vectors[0].request"),
        ("[[vectors]]\nworld = \"region-router\"\nrows = [[1]]", "vectors[0].rows[0]"),
        ("[[vectors]]\nworld = \"region-router\"\ntables = [[\"a\", 1, 1]]", "vectors[0].tables[0]"),
    ] {
        let error = error(text);
        assert!(error.contains(&format!("`{key}`: is of type")), "{error}");
    }
}

#[test]
fn names_and_versions_are_checked() {
    let named = |name: &str, version: &str| {
        Manifest::parse(&format!("name = '{name}'\nversion = '{version}'\nworlds = ['region-router']"))
    };
    for name in ["a", "0-a", "near-first", &"a".repeat(64)] {
        named(name, "1.0.0").unwrap();
    }
    for name in ["", "-a", "Near", "near first", "near_first", "näher", "a/../b", &"a".repeat(65)] {
        let error = named(name, "1.0.0").unwrap_err().to_string();
        assert!(error.starts_with("manifest line 1: `name`: "), "{error}");
    }
    for version in ["", "1", "1.0", "v1.0.0", "01.0.0", "1.0.0-beta", "1.0.0+build", "1.0.0.0"] {
        let error = named("a", version).unwrap_err().to_string();
        assert!(error.starts_with("manifest line 2: `version`: "), "{error}");
        assert!(error.ends_with("is no version; use three numbers, as `1.0.0`"), "{error}");
    }
}

#[test]
fn worlds_counters_and_tables_are_checked() {
    let worlds = |list: &str| {
        let text = format!("name = \"a\"\nversion = \"1.0.0\"\nworlds = [{list}]");
        Manifest::parse(&text).unwrap_err().to_string()
    };
    assert_eq!(
        worlds(""),
        "manifest line 3: `worlds`: names no world; name at least one of region-router, preload-planner, super-peer-scheduler"
    );
    assert_eq!(
        worlds("\"preload\""),
        "manifest line 3: `worlds[0]`: there is no world `preload`; the nearest is `preload-planner`"
    );
    let twice = worlds("\"region-router\", \"region-router\"");
    assert_eq!(twice, "manifest line 3: `worlds[1]`: `region-router` comes twice; name it once");

    assert_eq!(error("tables = ['a', 'a']"), "manifest line 4: `tables[1]`: `a` comes twice; name it once");
    assert!(error("counters = ['_a']").starts_with("manifest line 4: `counters[0]`: `_a` is no name"));
    let many: Vec<String> = (0..17).map(|number| format!("'c{number}'")).collect();
    assert!(with(&format!("counters = [{}]", many[..16].join(","))).is_ok());
    let error = error(&format!("counters = [{}]", many.join(",")));
    assert_eq!(error, "manifest line 4: `counters[16]`: is one too many; at most 16 may be named");
}

#[test]
fn vectors_are_checked() {
    for (text, words) in [
        ("rows = []\nexpect = [0]", "`vectors[0].rows`: is empty"),
        ("rows = [{}]", "`vectors[0]`: says 0 of `expect`, `abstain` and `invalid`"),
        ("rows = [{}]\nexpect = [0]\nabstain = true", "`vectors[0]`: says 2 of"),
        ("rows = [{}]\nexpect = []", "`vectors[0].expect`: names no row"),
        ("rows = [{}]\nexpect = [1]", "`vectors[0].expect[0]`: there is no row 1; rows count from 0 to 0"),
        ("rows = [{}]\nexpect = [0, 0]", "`vectors[0].expect[1]`: row 0 comes twice"),
        ("rows = [{}]\nexpect = [0]\nmore_copies = 1", "`vectors[0].more_copies`: goes with `expect` for"),
        (
            "rows = [{}]\nexpect = [0]\ntables = [{ name = 'x', key = 1, value = 1 }]",
            "`vectors[0].tables[0]`: `x` is not among the manifest's `tables`",
        ),
    ] {
        let error = vector(text);
        assert!(error.contains(words), "{error}");
    }
    let rows = "{},".repeat(crate::MOST_ROWS + 1);
    assert!(vector(&format!("rows = [{rows}]")).contains("`vectors[0].rows`: has 4097 entries"));

    let planner = error("[[vectors]]\nname = 'v'\nworld = 'preload-planner'");
    assert!(planner.contains("`preload-planner` is not among the manifest's `worlds`"), "{planner}");
    let one = "[[vectors]]\nname = 'v'\nworld = 'region-router'\nrows = [{}]\nabstain = true\n";
    assert!(with(one).is_ok());
    assert!(error(&one.repeat(2)).contains("`vectors[1].name`: another vector is named `v`"));
    assert!(error(&one.replace("'v'", "''")).contains("`vectors[0].name`: `` is no name"));
    let copies = "[[vectors]]\nname = 'v'\nworld = 'super-peer-scheduler'\nrows = [{}]\nexpect = []\n";
    assert!(with(copies).is_ok());
    assert!(error(&format!("{copies}more_copies = 65")).contains("65 is more than the 64"));
    let prices =
        "tables = ['p']\n[[vectors]]\nname = 'v'\nworld = 'region-router'\nrows = [{}]\nabstain = true\n";
    let entry = "{ name = 'p', key = 1, value = 1 }";
    assert!(with(&format!("{prices}tables = [{entry}]")).is_ok());
    let error = error(&format!("{prices}tables = [{entry}, {entry}]"));
    assert!(error.contains("`vectors[0].tables[1]`: has the name and key of entry 0"), "{error}");
}

#[test]
fn an_expectation_is_met_by_its_rows_in_order() {
    let choices = |rows: &[u32]| rows.iter().map(|row| Choice { row: *row, weight: 9 }).collect::<Vec<_>>();
    let ranked = Expectation::Ranked(vec![2, 0]);
    assert!(ranked.met_by(&Answer::Ranked(choices(&[2, 0]))));
    for other in [&[0, 2][..], &[2], &[2, 0, 1], &[]] {
        assert!(!ranked.met_by(&Answer::Ranked(choices(other))), "{other:?}");
    }
    let scheduled = Expectation::Scheduled { rows: vec![1], more_copies: 0 };
    assert!(scheduled.met_by(&Answer::Scheduled { peers: choices(&[1]), more_copies: 0 }));
    assert!(!scheduled.met_by(&Answer::Scheduled { peers: choices(&[1]), more_copies: 1 }));
    assert!(!scheduled.met_by(&Answer::Ranked(choices(&[1]))));
    assert!(Expectation::Abstain.met_by(&Answer::Abstain));
    assert!(!Expectation::Abstain.met_by(&Answer::Invalid(String::new())));
    assert!(Expectation::Invalid.met_by(&Answer::Invalid("why".into())));
}

#[test]
fn hostile_texts_are_errors() {
    let deep = "a.".repeat(200) + "a = 1";
    assert!(Manifest::parse(&deep).unwrap_err().to_string().contains("a key of more than 5 parts"));
    let mut nest = String::from("vectors = ");
    nest.push_str(&"{ a.a.a.a.a = ".repeat(500));
    for text in [
        nest.clone(),
        nest + "1" + &" }".repeat(500),
        "[".repeat(100_000),
        "vectors = ".to_owned() + &"[".repeat(100_000),
    ] {
        assert!(matches!(Manifest::parse(&text), Err(ManifestError::Syntax { .. })));
    }
    assert!(matches!(Manifest::parse(&" ".repeat(MOST_MANIFEST + 1)), Err(ManifestError::TooLong(_))));
    let twice = Manifest::parse("name = \"a\"\nname = \"b\"").unwrap_err().to_string();
    assert!(twice.starts_with("manifest line 2: ") && twice.contains("`name`"), "{twice}");
    // Nobody's text breaks a log line.
    let error = error(&format!("\"a\\n`b{}\" = 1", "c".repeat(1000)));
    assert!(error.starts_with("manifest line 4: unknown key `a\u{fffd}`bccc"), "{error}");
    assert!(error.len() < 300, "{error}");
}

#[test]
fn no_change_of_a_byte_panics() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..2000 {
        let mut bytes = WHOLE.as_bytes().to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes.truncate(random.usize(..=bytes.len()));
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let _ = Manifest::parse(text);
        }
    }
}
