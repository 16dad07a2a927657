//! `skerry node`: the fleet's authority, tokens that let machines in, and the nodes on record.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::Value;
use skerry_registry::ca::{
    self, Authority, CA_CERTIFICATE, CA_KEY, NODE_CERTIFICATE, NODE_KEY, NewKey, Request, Subject,
};
use skerry_registry::enrol::{MOST_VALID_SECONDS, TokenAnswer, TokenRequest};
use skerry_registry::message::MOST_CONFIGURATION;
use skerry_registry::{hex, identity};

use super::client::{Client, Target};
use super::print;
use super::units::{cut, seconds};

mod enrol;

#[derive(Debug, Subcommand)]
pub(super) enum Node {
    /// Make the fleet's certificate authority, on the control node
    CaInit(CaInit),
    /// Make a one-time token that lets a machine in as a node
    Token(Token),
    /// Become a node of a fleet: make a key, and have it signed for a token
    Enrol(enrol::Enrol),
    /// Show the nodes that the control node has on record
    List(List),
    /// Throw a node out, for good: it leaves the fleet, and its id is never let in again
    Revoke(Revoke),
}

impl Node {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::CaInit(init) => init.execute(),
            Self::Token(token) => token.execute(),
            Self::Enrol(enrol) => enrol.execute(),
            Self::List(list) => list.execute(),
            Self::Revoke(revoke) => revoke.execute(),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct CaInit {
    /// Folder for the authority's key and certificate; made when missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Make the control node's own certificate too; this is its `node.name`
    #[arg(long, value_name = "ID", value_parser = id)]
    control: Option<String>,
    /// Host name or address that nodes reach the control node at; may be given several times
    #[arg(long = "name", value_name = "NAME", requires = "control")]
    names: Vec<String>,
    /// How long the control node's certificate is good, days
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
}

impl CaInit {
    fn execute(&self) -> anyhow::Result<ExitCode> {
        let dir = &self.dir;
        // Nothing is written when the second half would fail.
        ca::check_names(&self.names)?;
        for file in [NODE_CERTIFICATE, NODE_KEY].map(|name| dir.join(name)) {
            ensure!(self.control.is_none() || !file.exists(), "{} is there already", file.display());
        }
        let authority = Authority::create(dir, now_ms())?;
        let mut text = format!(
            "authority      {}, sha256:{}\nits key        {}: keep it on the control node alone\n",
            dir.join(CA_CERTIFICATE).display(),
            hex::encode(authority.fingerprint()),
            dir.join(CA_KEY).display()
        );
        if let Some(id) = &self.control {
            let NewKey { key, request } = NewKey::make()?;
            let subject = Subject { id, names: &self.names };
            let certificate = authority.sign(&Request::parse(&request)?, subject, self.days, now_ms())?;
            ca::write_new(&dir.join(NODE_KEY), &key, 0o600)?;
            ca::write_new(&dir.join(NODE_CERTIFICATE), &certificate, 0o644)?;
            text.push_str(&format!("control node   {}\n", dir.join(NODE_CERTIFICATE).display()));
        }
        text.push_str(&format!(
            "\nThe control node's configuration:\n\n[registry]\ncontrol = true\nca_file = {}\nca_key_file = {}\n",
            quoted(&dir.join(CA_CERTIFICATE)),
            quoted(&dir.join(CA_KEY))
        ));
        if self.control.is_some() {
            text.push_str(&format!(
                "\n[public]\ntls_certificate_file = {}\ntls_key_file = {}\n",
                quoted(&dir.join(NODE_CERTIFICATE)),
                quoted(&dir.join(NODE_KEY))
            ));
        }
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Args)]
pub(super) struct Token {
    /// The new node's id: its `node.name`
    #[arg(value_name = "ID", value_parser = id)]
    id: String,
    /// Region that it stands in [default: what the node says]
    #[arg(long, default_value = "", hide_default_value = true)]
    region: String,
    /// How long the token is good, as 30m or 2h; a week at most
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = valid)]
    valid: Duration,
    /// Host name or address that the node answers TLS at; may be given several times
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Configuration (TOML) that the machine gets with its certificate: all but what enrolment adds
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Token {
    fn execute(&self) -> anyhow::Result<ExitCode> {
        let request = TokenRequest {
            node: self.id.clone(),
            region: self.region.clone(),
            names: self.names.clone(),
            valid_seconds: self.valid.as_secs(),
            configuration: self.configuration()?,
        };
        let body = serde_json::to_vec(&request)?;
        let answer = Client::new(&self.target)?.send_file("/registry/tokens", body.into())?;
        if self.json {
            print(&format!("{answer:#}\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let answer: TokenAnswer =
            serde_json::from_value(answer).context("the node's answer is not understood")?;
        print(&format!(
            "{}\n\nGood once, for {}. On the new machine, with the token in a file:\n\n  \
             skerry node enrol --control https://CONTROL:8443 --token-file FILE --dir DIR \\\n    \
             --ca-fingerprint {}\n",
            answer.token,
            seconds(request.valid_seconds),
            answer.ca_fingerprint
        ))?;
        Ok(ExitCode::SUCCESS)
    }

    /// What the machine is to get; empty for nothing.
    fn configuration(&self) -> anyhow::Result<String> {
        let Some(path) = &self.config else { return Ok(String::new()) };
        let cannot = || format!("cannot read the configuration {}", path.display());
        let length = fs::metadata(path).with_context(cannot)?.len();
        ensure!(
            length <= MOST_CONFIGURATION as u64,
            "{} has {length} bytes; at most {MOST_CONFIGURATION} are handed out",
            path.display()
        );
        fs::read_to_string(path).with_context(cannot)
    }
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl List {
    fn execute(&self) -> anyhow::Result<ExitCode> {
        let list = Client::new(&self.target)?.get("/registry/nodes")?;
        print(&if self.json { format!("{list:#}\n") } else { table(&list, now_ms()) })?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The node's id
    #[arg(value_name = "ID", value_parser = id)]
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Revoke {
    fn execute(&self) -> anyhow::Result<ExitCode> {
        let id = &self.id;
        let path = format!("/registry/nodes/{id}/revoke");
        let answer = Client::new(&self.target)?.send_file(&path, Bytes::new())?;
        let text = match answer["known"] {
            _ if self.json => format!("{answer:#}\n"),
            Value::Bool(false) => {
                format!("no node {id} was known here; that id is never let in from now on\n")
            }
            _ => format!("node {id} is out of the fleet, and its id is never let in again\n"),
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What the control node told; a field that is missing (another version's) is shown as `?` or 0.
fn table(list: &Value, now_ms: u64) -> String {
    let row = |id: &str, region: &str, standing: &str, heard: &str, holds: &str, links: &str| {
        let line = format!("{id:<24} {region:<16} {standing:<8} {heard:>12} {holds:>8}  {links}");
        line.trim_end().to_owned() + "\n"
    };
    // The control node's clock may be another one than the system's.
    let now_ms = list["now_ms"].as_u64().unwrap_or(now_ms);
    let ago = |time: &Value| {
        let ms = time.as_u64().map(|time_ms| now_ms.saturating_sub(time_ms));
        ms.map_or("?".to_owned(), |ms| seconds(ms / 1000))
    };
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let mut text = row("NODE", "REGION", "STANDING", "HEARD AGO", "HOLDS", "LINKS");
    let mut rivals = String::new();
    for told in list["nodes"].as_array().into_iter().flatten() {
        let (node, rival) = (&told["node"], &told["rival"]);
        let links = node["links"].as_array().into_iter().flatten().map(link).collect::<Vec<_>>().join(", ");
        text.push_str(&row(
            &cut(&word(&node["id"]), 24),
            &cut(&word(&node["region"]), 16),
            &word(&told["standing"]),
            &ago(&node["seen_ms"]),
            &told["holdings"].as_u64().unwrap_or(0).to_string(),
            &cut(&links, 80),
        ));
        if rival.is_object() {
            let (id, address) = (cut(&word(&node["id"]), 64), cut(&word(&rival["address"]), 40));
            let seen = ago(&rival["seen_ms"]);
            rivals.push_str(&format!(
                "two machines are {id}: the one at {address} is refused, heard {seen} ago\n"
            ));
        }
    }
    for revoked in list["revoked"].as_array().into_iter().flatten() {
        let id = cut(&word(&revoked["id"]), 24);
        text.push_str(&row(&id, "", "revoked", &ago(&revoked["since_ms"]), "", ""));
    }
    if !rivals.is_empty() {
        text.push('\n');
    }
    text + &rivals
}

/// `north 12 of 1000 Mbit/s`, and whether it is down.
fn link(link: &Value) -> String {
    let mbps = |key: &str| link[key].as_u64().unwrap_or(0) / 1000;
    let down = if link["healthy"] == Value::Bool(false) { " DOWN" } else { "" };
    let name = link["name"].as_str().unwrap_or("?");
    format!("{name} {} of {} Mbit/s{down}", mbps("used_kbps"), mbps("capacity_kbps"))
}

fn id(text: &str) -> Result<String, String> {
    if identity::is_id(text) {
        return Ok(text.to_owned());
    }
    Err("a node's name has at most 64 letters, digits, `-`, `.` and `_`, a letter first".into())
}

fn valid(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time > Duration::from_secs(MOST_VALID_SECONDS) {
        return Err("a token is good for a week at most".into());
    }
    Ok(time)
}

/// A path as TOML has it.
fn quoted(path: &Path) -> String {
    toml::Value::from(path.display().to_string()).to_string()
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        node: Node,
    }

    #[test]
    fn an_operator_s_commands_are_read() {
        let print = format!("sha256:{}", "a".repeat(64));
        let enrol = "enrol --control https://control.example:8443 --token-file t --dir d";
        let pinned = [print.as_str(), &print[..70], &print[7..]]
            .map(|print| format!("{enrol} --ca-fingerprint {print}"));
        for (words, right) in [
            ("ca-init /etc/skerry/ca", true),
            ("ca-init ca --control edge-1 --name control.example --name 192.0.2.1", true),
            ("ca-init ca --name control.example", false),
            ("ca-init ca --control 7up", false),
            ("ca-init", false),
            ("token edge-7", true),
            ("token edge-7 --region north --valid 2h --node 127.0.0.1:9180", true),
            ("token edge-7 --config edge.toml", true),
            ("token edge-7 --config", false),
            ("token edge-7 --valid 8d", false),
            ("token edge-7 --valid soon", false),
            ("token a/b", false),
            (enrol, true),
            (pinned[0].as_str(), true),
            (pinned[1].as_str(), false),
            (pinned[2].as_str(), false),
            ("enrol --control ftp://a --token-file t --dir d", false),
            ("enrol --control https://a --dir d", false),
            ("list --json", true),
            ("revoke edge-7 --json --node 127.0.0.1:9180", true),
            ("revoke", false),
            ("revoke a/b", false),
        ] {
            let parsed = Line::try_parse_from(["node"].into_iter().chain(words.split(' ')));
            assert_eq!(parsed.is_ok(), right, "{words}: {parsed:?}");
        }
    }

    #[test]
    fn a_configuration_is_read_within_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("edge.toml");
        let read = |config: &Path| {
            let words = ["node", "token", "edge-7", "--config", config.to_str().unwrap()];
            let Node::Token(token) = Line::try_parse_from(words).unwrap().node else { panic!("no token") };
            token.configuration().map_err(|error| error.to_string())
        };
        fs::write(&file, "[sites.default]\n").unwrap();
        assert_eq!(read(&file).as_deref(), Ok("[sites.default]\n"));
        fs::write(&file, vec![b'#'; MOST_CONFIGURATION + 1]).unwrap();
        assert!(read(&file).unwrap_err().contains("at most 131072 are handed out"));
        assert!(read(&folder.path().join("none")).unwrap_err().starts_with("cannot read the configuration "));
    }

    #[test]
    fn an_authority_is_made_once_with_the_control_node_s_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let init = |control: Option<&str>, names: &[&str]| {
            let names = names.iter().map(|&name| name.to_owned()).collect();
            let control = control.map(str::to_owned);
            CaInit { dir: folder.path().join("ca"), control, names, days: 30 }.execute()
        };
        assert!(init(Some("control"), &["a b"]).is_err());
        assert!(!folder.path().join("ca").exists());
        init(Some("control"), &["control.example"]).unwrap();
        let certificate = fs::read_to_string(folder.path().join("ca").join(NODE_CERTIFICATE)).unwrap();
        let certificate = ca::der_of(&certificate).unwrap();
        assert_eq!(identity::node_of(&certificate).as_deref(), Some("control"));
        assert!(init(None, &[]).unwrap_err().to_string().contains("is there already"));
    }

    #[test]
    fn nodes_are_told_in_lines_that_fit() {
        let link =
            json!({ "name": "north", "used_kbps": 12_345, "capacity_kbps": 1_000_000, "healthy": true });
        let node = json!({
            "id": "edge-7", "region": "north", "seen_ms": 1_000_000, "links": [link, { "healthy": false }],
        });
        let list = json!({ "nodes": [{ "node": node, "standing": "live", "holdings": 7 }, {}] });
        let table = table(&list, 1_061_000);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].starts_with("edge-7 ") && lines[1].contains(" live "), "{table}");
        assert!(
            lines[1].ends_with("1 min 1 s        7  north 12 of 1000 Mbit/s, ? 0 of 0 Mbit/s DOWN"),
            "{table}"
        );
        assert!(lines[2].starts_with("? "), "{table}");
        assert!(lines.iter().all(|line| line.chars().count() <= 155), "{table}");
    }

    #[test]
    fn who_was_thrown_out_and_who_is_there_twice_is_told() {
        let rival = json!({ "address": "192.0.2.9", "since_ms": 0, "seen_ms": 997_000 });
        let node = json!({ "id": "edge-7", "seen_ms": 1_000_000 });
        let list = json!({
            "now_ms": 1_000_000,
            "nodes": [{ "node": node, "standing": "live", "rival": rival }, { "rival": null }],
            "revoked": [{ "id": "edge-8", "since_ms": 940_000 }],
        });
        // The clock here is of no interest.
        let table = table(&list, 7);
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[1].starts_with("edge-7 ") && lines[1].contains(" live ") && lines[1].contains(" 0 s"),
            "{table}"
        );
        assert!(lines[3].starts_with("edge-8 ") && lines[3].contains(" revoked "), "{table}");
        assert_eq!(
            lines[4..],
            ["", "two machines are edge-7: the one at 192.0.2.9 is refused, heard 3 s ago"]
        );
    }
}
