//! Whether what was booted does its work: `skerry-box health`, the gate before a boot is blessed.
//!
//! The packet filter has to be in force. The node is asked what everybody is asked, over its own listeners: it
//! is ready, the public listeners answer, the store is open, and the fleet's control node is heard. The last
//! one is asked of a boot that is on trial alone, and not where the version before did not hear it either: an
//! update must not be undone because of another machine.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Settings;
use crate::http::{self, Answer, Get, HttpError, PATIENCE, PROXY_LOCAL};
use crate::layout::Layout;
use crate::status::{self, Wrong};
use crate::{facts, files, rollback, trial};

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(2);
/// What every node answers without asking an origin: a resource that nobody has.
const NOBODY_S: &str =
    "/.skerry/v1/resources/0000000000000000000000000000000000000000000000000000000000000000";

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Its version; empty when it does not answer.
    pub version: String,
    /// It is in a fleet, and whether it hears its control node.
    pub control: Option<bool>,
    /// What is wrong with it, but for the control node.
    pub wrong: Vec<String>,
}

/// Where a node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    admin: SocketAddr,
    token: String,
    public: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    proxy_protocol: bool,
}

/// The keys of the node that no other program of the box needs.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Keys {
    admin: Admin,
    public: Public,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Admin {
    token_file: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Public {
    proxy_protocol: bool,
}

impl Reach {
    /// By the configuration.
    ///
    /// # Errors
    /// When the configuration or the token cannot be read.
    pub fn of(layout: &Layout) -> Result<Self, String> {
        let path = layout.config();
        let settings = Settings::load(&path).map_err(|error| error.to_string())?;
        let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let keys: Keys = toml::from_str(&text).map_err(|error| error.message().to_owned())?;
        let token = match keys.admin.token_file {
            file if file.as_os_str().is_empty() => String::new(),
            file => {
                let file = token_file(layout, &file);
                let token = files::read(&file, 4096);
                let token = token.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
                String::from_utf8_lossy(&token).trim().to_owned()
            }
        };
        // Where a cable is not plugged in its addresses are not there either, and nothing can be asked.
        let ours = facts::addresses(layout);
        let here = |one: &SocketAddr| one.ip().is_loopback() || ours.contains(&one.ip());
        let all = |listen: &[SocketAddr]| -> Vec<SocketAddr> {
            listen.iter().map(|one| http::reachable(*one)).filter(here).collect()
        };
        Ok(Self {
            admin: http::reachable(settings.admin.listen),
            token,
            public: all(&settings.public.listen),
            tls: all(&settings.public.tls_listen),
            proxy_protocol: keys.public.proxy_protocol,
        })
    }

    fn admin(&self, path: &str) -> Result<Answer, HttpError> {
        http::get(self.admin, Get { path, token: &self.token, preface: b"" }, PATIENCE)
    }

    /// Asks the node, once.
    pub fn look(&self) -> Health {
        let mut health = Health::default();
        match self.admin("/readyz") {
            Ok(Answer { status: 200, .. }) => {}
            Ok(answer) => {
                let words = String::from_utf8_lossy(&answer.body).into_owned();
                health.wrong.push(format!("the node is not ready: {}", status::clean(&words, 200)));
            }
            Err(error) => health.wrong.push(format!("the node is not ready: {error}")),
        }
        if !health.wrong.is_empty() {
            return health;
        }
        let status = match self.admin("/status").map(|answer| serde_json::from_slice::<Value>(&answer.body)) {
            Ok(Ok(status)) => status,
            Ok(Err(_)) => Value::Null,
            Err(error) => {
                health.wrong.push(format!("the node does not tell how it is: {error}"));
                return health;
            }
        };
        health.version = status::clean(status["version"].as_str().unwrap_or_default(), 40);
        if status["store"]["capacity_bytes"].as_u64().is_none() {
            health.wrong.push("the store is not open".into());
        }
        if status["registry"]["part"] == "member" {
            health.control = Some(status["registry"]["membership"]["reachable"] == true);
        }
        health.wrong.extend(self.public().err());
        health
    }

    /// Whether clients are answered. What their origins say is no matter of the box.
    fn public(&self) -> Result<(), String> {
        let preface = if self.proxy_protocol { PROXY_LOCAL } else { b"" };
        for address in &self.public {
            let answer = http::get(*address, Get { path: NOBODY_S, token: "", preface }, PATIENCE);
            match answer {
                Ok(answer) if answer.status < 500 => {}
                Ok(answer) => return Err(format!("the public listener {address} answers {}", answer.status)),
                Err(error) => return Err(format!("the public listener {error}")),
            }
        }
        // No TLS is spoken here: that a connection is taken has to do.
        for address in &self.tls {
            std::net::TcpStream::connect_timeout(address, PATIENCE)
                .map_err(|error| format!("the TLS listener {address} does not answer: {error}"))?;
        }
        Ok(())
    }
}

/// Where the token is read. A credential of the node's service is another one's of the same name here: nobody
/// looks into the folder of a service but itself.
fn token_file(layout: &Layout, file: &Path) -> PathBuf {
    match (layout.credentials(), file.file_name()) {
        (Some(folder), Some(name)) if file.starts_with("/run/credentials") => folder.join(name),
        _ => layout.at(file.strip_prefix("/").unwrap_or(file)),
    }
}

/// What the version before an update knew: `/var/lib/skerry-box/update/before.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Before {
    /// It heard the control node; `None` when it was in no fleet.
    pub control: Option<bool>,
}

impl Before {
    fn path(layout: &Layout) -> PathBuf {
        layout.state().join("update/before.json")
    }

    /// Keeps how the node is now, for the version after the reboot.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn write(layout: &Layout) -> io::Result<()> {
        let control = Reach::of(layout).ok().and_then(|reach| reach.look().control);
        let path = Self::path(layout);
        files::make_dir(path.parent().unwrap_or(Path::new("/")), 0o700, None)?;
        files::replace(&path, &serde_json::to_vec(&Self { control })?, 0o600, None)
    }

    fn read(layout: &Layout) -> Self {
        let text = files::text(&Self::path(layout), 4096);
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }
}

/// Looks until the box is well, for so long at most; tells the screen and the node what is wrong.
///
/// # Errors
/// What was wrong at the end.
pub fn wait(layout: &Layout, patience: Duration) -> Result<String, Vec<String>> {
    let until = Instant::now() + patience;
    loop {
        let seen = look(layout);
        let left = until.saturating_duration_since(Instant::now());
        if seen.is_err() && !left.is_zero() {
            thread::sleep(PERIOD.min(left));
            continue;
        }
        let wrong = seen.as_ref().err().into_iter().flatten().map(Wrong::new).collect();
        if seen.is_ok() {
            rollback::forget(layout);
        }
        if let Err(error) = status::report(layout, "health", wrong) {
            log::warn!("cannot tell how the box is: {error}");
        }
        return seen;
    }
}

/// Looks once.
fn look(layout: &Layout) -> Result<String, Vec<String>> {
    if layout.refused().exists() {
        return Err(vec!["the configuration is refused".into()]);
    }
    let filter = status::read(layout).into_iter().filter(|wrong| wrong.unit == "firewall");
    let filter: Vec<String> = filter.map(|wrong| wrong.line()).collect();
    if !filter.is_empty() {
        return Err(filter);
    }
    if !layout.config().is_file() {
        // A box that waits for its configuration does all that it can, unless it lost one.
        let had_one = layout.state().join("provisioned").exists();
        let lost = format!("{} is gone", layout.config().display());
        return if had_one { Err(vec![lost]) } else { Ok("not provisioned: nothing else to check".into()) };
    }
    let health = Reach::of(layout).map_err(|words| vec![words])?.look();
    judge(health, trial::on_trial(layout), &Before::read(layout))
}

/// Whether a boot is good enough, on trial or not.
fn judge(health: Health, on_trial: bool, before: &Before) -> Result<String, Vec<String>> {
    let control = match (health.control, on_trial, before.control) {
        (None, ..) => "",
        (Some(true), ..) => ", the control node answers",
        (Some(false), true, Some(true)) => {
            let words = "the control node does not answer, and did before the update";
            return Err([health.wrong, vec![words.into()]].concat());
        }
        (Some(false), ..) => ", the control node does not answer",
    };
    if health.wrong.is_empty() { Ok(format!("ready and serving{control}")) } else { Err(health.wrong) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// A node whose admin and public listener are one, and which answers these statuses and this JSON.
    fn node(ready: u16, public: u16, status: &str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let status = status.to_owned();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 2048];
                let read = stream.read(&mut request).unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let (code, body) = match request.split(' ').nth(1) {
                    _ if !request.contains("Bearer secret") && !request.contains("/.skerry/") => (401, "no"),
                    Some("/readyz") => (ready, "store: opening\x1b[2J\n"),
                    Some("/status") => (200, status.as_str()),
                    _ => (public, "nobody"),
                };
                let length = body.len();
                let _ = write!(stream, "HTTP/1.1 {code} X\r\nContent-Length: {length}\r\n\r\n{body}");
            }
        });
        address
    }

    const WELL: &str = r#"{ "version": "0.1.0", "store": { "capacity_bytes": 7 } }"#;

    fn layout(address: SocketAddr) -> (tempfile::TempDir, Layout) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        layout.make_config_dir().unwrap();
        fs::write(root.path().join("token"), "secret\n").unwrap();
        let text = format!(
            "[admin]\nlisten = \"{address}\"\ntoken_file = \"/token\"\n[public]\nlisten = [\"{address}\"]\n"
        );
        fs::write(layout.config(), text).unwrap();
        (root, layout)
    }

    fn wrong(ready: u16, public: u16, status: &str) -> Vec<String> {
        let (_root, layout) = layout(node(ready, public, status));
        wait(&layout, Duration::ZERO).unwrap_err()
    }

    #[test]
    fn a_node_that_serves_is_well() {
        let (_root, layout) = layout(node(200, 404, WELL));
        assert_eq!(wait(&layout, Duration::ZERO).unwrap(), "ready and serving");
        assert!(status::read(&layout).is_empty());
        let health = Reach::of(&layout).unwrap().look();
        assert_eq!((health.version.as_str(), health.control), ("0.1.0", None));
    }

    #[test]
    fn one_that_does_not_is_not() {
        assert_eq!(wrong(503, 404, WELL), ["the node is not ready: store: opening [2J"]);
        assert_eq!(wrong(200, 404, "{}"), ["the store is not open"]);
        assert_eq!(wrong(200, 404, "?"), ["the store is not open"]);
        assert!(wrong(200, 502, WELL)[0].ends_with("answers 502"));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (_root, layout) = layout(closed);
        let wrong = wait(&layout, Duration::from_millis(10)).unwrap_err();
        assert!(wrong[0].starts_with("the node is not ready: 127.0.0.1:"), "{wrong:?}");
        assert_eq!(status::read(&layout)[0].unit, "health");
    }

    #[test]
    fn a_token_that_is_a_credential_is_read_as_ones_own() {
        let (root, layout) = layout(node(200, 404, WELL));
        let text = fs::read_to_string(layout.config()).unwrap();
        let text = text.replace("/token", "/run/credentials/skerry.service/skerry.node.admin-token");
        fs::write(layout.config(), text).unwrap();
        assert!(Reach::of(&layout).unwrap_err().starts_with("cannot read "));
        fs::create_dir(root.path().join("own")).unwrap();
        fs::rename(root.path().join("token"), root.path().join("own/skerry.node.admin-token")).unwrap();
        let layout = layout.with_credentials(root.path().join("own"));
        assert_eq!(wait(&layout, Duration::ZERO).unwrap(), "ready and serving");
        // A file is read where it is, whatever credentials there are.
        let file = token_file(&layout, Path::new("/etc/skerry/token"));
        assert_eq!(file, root.path().join("etc/skerry/token"));
    }

    #[test]
    fn a_box_that_waits_for_its_configuration_is_well_and_one_that_lost_it_is_not() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        assert!(wait(&layout, Duration::ZERO).is_ok());
        files::make_dir(&layout.state(), 0o700, None).unwrap();
        fs::write(layout.state().join("provisioned"), "{}").unwrap();
        assert!(wait(&layout, Duration::ZERO).unwrap_err()[0].ends_with("skerry.toml is gone"));
        fs::create_dir_all(layout.config_dir()).unwrap();
        fs::write(layout.config(), "[admin]\nlisten = 7\n").unwrap();
        assert!(wait(&layout, Duration::ZERO).unwrap_err()[0].contains("admin.listen"));
        fs::write(layout.refused(), "").unwrap();
        assert_eq!(wait(&layout, Duration::ZERO).unwrap_err(), ["the configuration is refused"]);
    }

    #[test]
    fn a_box_without_its_packet_filter_is_not_well() {
        let (_root, layout) = layout(node(200, 404, WELL));
        status::report(&layout, "firewall", vec![Wrong::new("there is no packet filter")]).unwrap();
        assert_eq!(wait(&layout, Duration::ZERO).unwrap_err(), ["there is no packet filter"]);
        status::report(&layout, "firewall", vec![]).unwrap();
        assert!(wait(&layout, Duration::ZERO).is_ok());
    }

    #[test]
    fn the_control_node_counts_where_it_was_heard_before() {
        let judged = |control, on_trial, before| {
            judge(Health { control, ..Health::default() }, on_trial, &Before { control: before }).is_ok()
        };
        assert!(judged(Some(true), true, Some(true)) && judged(None, true, None));
        assert!(!judged(Some(false), true, Some(true)));
        // Not on trial, known to be down, or never heard of.
        for (on_trial, before) in [(false, Some(true)), (true, Some(false)), (true, None)] {
            assert!(judged(Some(false), on_trial, before), "{on_trial} {before:?}");
        }
    }

    #[test]
    fn what_was_before_is_kept_for_the_next_version() {
        let member = r#"{ "store": { "capacity_bytes": 7 },
            "registry": { "part": "member", "membership": { "reachable": true } } }"#;
        let (_root, layout) = layout(node(200, 404, member));
        assert_eq!(Before::read(&layout), Before::default());
        Before::write(&layout).unwrap();
        assert_eq!(Before::read(&layout), Before { control: Some(true) });
    }
}
