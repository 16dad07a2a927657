//! `[admin]`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

/// Longest name in `admin.operators`, bytes.
const MOST_NAME: usize = 256;

/// `[admin]`: the operator's listeners.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address of metrics, health, purge and drain, in the clear.
    pub listen: SocketAddr,
    /// File with the bearer token that is asked for at `listen`; needed when that leaves loopback.
    pub token_file: PathBuf,
    /// Addresses of the same over TLS, for operators elsewhere: they are known by their certificates alone.
    pub tls_listen: Vec<SocketAddr>,
    /// Certificate chain that is shown there, PEM; without it and its key the node's own of `[registry]`. Read
    /// again on SIGHUP and every hour, as the other two files are.
    pub tls_certificate_file: PathBuf,
    /// Private key of that certificate, PEM.
    pub tls_key_file: PathBuf,
    /// Certificates (PEM) of the authority whose operators may come; without it the fleet's.
    pub tls_client_ca_file: PathBuf,
    /// Who may come, by the names in their certificates. Empty, whoever is an operator of the fleet; a node of it
    /// never may.
    pub operators: Vec<String>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9180)),
            token_file: PathBuf::new(),
            tls_listen: Vec::new(),
            tls_certificate_file: PathBuf::new(),
            tls_key_file: PathBuf::new(),
            tls_client_ca_file: PathBuf::new(),
            operators: Vec::new(),
        }
    }
}

impl AdminConfig {
    /// The same, with a node's certificate, its key and its fleet's authority where the table names none.
    pub fn or_of_node(mut self, certificate: &Path, key: &Path, authority: &Path) -> Self {
        let is_empty = |path: &Path| path.as_os_str().is_empty();
        if is_empty(&self.tls_certificate_file) && is_empty(&self.tls_key_file) {
            (self.tls_certificate_file, self.tls_key_file) = (certificate.to_owned(), key.to_owned());
        }
        if is_empty(&self.tls_client_ca_file) {
            self.tls_client_ca_file = authority.to_owned();
        }
        self
    }

    /// What cannot be said by types; the error is a key and a reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if !self.listen.ip().is_loopback() && self.token_file.as_os_str().is_empty() {
            return Err((
                "admin.token_file",
                "must name a file, since `admin.listen` is not on loopback".into(),
            ));
        }
        for (key, path) in [
            ("admin.tls_certificate_file", &self.tls_certificate_file),
            ("admin.tls_key_file", &self.tls_key_file),
            ("admin.tls_client_ca_file", &self.tls_client_ca_file),
        ] {
            if !self.tls_listen.is_empty() && path.as_os_str().is_empty() {
                let reason = "must name a file, since `admin.tls_listen` is set, and `[registry]` names none";
                return Err((key, reason.into()));
            }
        }
        for name in &self.operators {
            if name.is_empty() || name.len() > MOST_NAME || name.chars().any(char::is_control) {
                let reason = format!("names must have 1 to {MOST_NAME} bytes, without control characters");
                return Err(("admin.operators", reason));
            }
            if name.starts_with("skerry://") {
                let reason = format!("has `{name}`: of skerry://operator/NAME write NAME alone");
                return Err(("admin.operators", reason));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::commented;

    fn key_of(text: &str) -> Option<&'static str> {
        let config: AdminConfig = toml::from_str(text).unwrap();
        config.check().err().map(|(key, _)| key)
    }

    #[test]
    fn what_cannot_be_is_named_by_its_key() {
        let files = ["tls_certificate_file", "tls_key_file", "tls_client_ca_file"].map(|key| {
            let others = ["tls_certificate_file", "tls_key_file", "tls_client_ca_file"];
            others.iter().filter(|&&other| other != key).map(|other| format!("{other} = \"f\"\n")).collect()
        });
        let tls = "tls_listen = [\"0.0.0.0:9443\"]\n";
        let [certificate, key, authority]: [String; 3] = files;
        for (text, wrong) in [
            (String::new(), None),
            ("listen = \"0.0.0.0:9180\"".into(), Some("admin.token_file")),
            (format!("{tls}{certificate}"), Some("admin.tls_certificate_file")),
            (format!("{tls}{key}"), Some("admin.tls_key_file")),
            (format!("{tls}{authority}"), Some("admin.tls_client_ca_file")),
            (format!("{tls}{authority}tls_client_ca_file = \"f\""), None),
            // Files that nobody needs are no fault.
            (certificate, None),
            ("operators = [\"alice\", \"CN of Bob\"]".into(), None),
            ("operators = [\"\"]".into(), Some("admin.operators")),
            ("operators = [\"skerry://node/edge\"]".into(), Some("admin.operators")),
        ] {
            assert_eq!(key_of(&text), wrong, "{text}");
        }
    }

    #[test]
    fn a_node_s_own_files_take_the_place_of_none() {
        let of_node =
            |config: AdminConfig| config.or_of_node(Path::new("node"), Path::new("key"), Path::new("ca"));
        let config = of_node(AdminConfig::default());
        assert_eq!(
            [&config.tls_certificate_file, &config.tls_key_file, &config.tls_client_ca_file],
            [Path::new("node"), Path::new("key"), Path::new("ca")]
        );
        // A certificate never goes with another one's key.
        let config = of_node(AdminConfig { tls_certificate_file: "own".into(), ..AdminConfig::default() });
        assert_eq!([&config.tls_certificate_file, &config.tls_key_file], [Path::new("own"), Path::new("")]);
    }

    #[test]
    fn printed_defaults_comment_every_key() {
        let text = commented("admin", &AdminConfig::default());
        for field in AdminConfig::FIELD_NAMES {
            assert!(text.contains(&format!("\n{field} = ")), "{field} is missing");
        }
        let parsed: AdminConfig = toml::from_str(text.strip_prefix("[admin]\n").unwrap()).unwrap();
        assert_eq!(parsed, AdminConfig::default());
    }
}
