//! The tables that every role leans on, and a commented default file printed from the structs' own doc
//! comments. How a file is read, and what is said of one that is wrong, is `skerry_appliance::toml`'s.

use std::net::SocketAddr;
use std::path::PathBuf;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

/// `[node]`: the box as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Name of this node, as it appears in `Via` and in the logs.
    pub name: String,
    /// Folder of everything durable. The node makes it when it is missing.
    pub data_dir: PathBuf,
    /// Threads that serve clients; 0 means one for every core.
    pub workers: usize,
    /// After SIGTERM, how long running bodies may take to finish.
    pub drain_seconds: u64,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { name: "skerry".into(), data_dir: "/var/lib/skerry".into(), workers: 0, drain_seconds: 30 }
    }
}

/// `[log]`: what is said, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Least severe level that is written: error, warn, info, debug or trace.
    pub level: String,
    /// auto (the journal when started by systemd, else terminal), journal, terminal or json.
    pub format: LogFormat,
    /// One line for every request.
    pub access: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Auto, access: false }
    }
}

/// Where log lines go and how they look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// The journal when started by systemd, else the terminal form.
    Auto,
    /// The systemd journal, with structured fields.
    Journal,
    /// A readable line on standard error.
    Terminal,
    /// A JSON object a line on standard error.
    Json,
}

/// `[public]`: the listeners that clients reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct PublicConfig {
    /// Addresses for HTTP/1.1 in the clear.
    pub listen: Vec<SocketAddr>,
    /// Addresses for HTTP/1.1 and HTTP/2 over TLS; both files below are needed.
    pub tls_listen: Vec<SocketAddr>,
    /// Certificate chain, PEM. Read again on SIGHUP.
    pub tls_certificate_file: PathBuf,
    /// Private key of the certificate, PEM. Read again on SIGHUP.
    pub tls_key_file: PathBuf,
    /// Certificates (PEM) of an authority whose clients are known by theirs: on a control node, the
    /// fleet's. Clients without one are served too.
    pub tls_client_ca_file: PathBuf,
    /// Connections begin with a PROXY protocol v2 header (from a load balancer in front).
    pub proxy_protocol: bool,
    /// Connections open at once; further ones are closed at once and counted.
    pub max_connections: usize,
    /// From the first byte of a request to the end of its header.
    pub header_timeout_seconds: u64,
    /// How long a connection may stay open without a request.
    pub idle_timeout_seconds: u64,
    /// A client that takes no byte for so long is cut.
    pub write_timeout_seconds: u64,
    /// Largest request header.
    pub max_header_bytes: usize,
}

impl Default for PublicConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            tls_listen: Vec::new(),
            tls_certificate_file: PathBuf::new(),
            tls_key_file: PathBuf::new(),
            tls_client_ca_file: PathBuf::new(),
            proxy_protocol: false,
            max_connections: 10_000,
            header_timeout_seconds: 10,
            idle_timeout_seconds: 75,
            write_timeout_seconds: 60,
            max_header_bytes: 64 * 1024,
        }
    }
}

impl PublicConfig {
    /// What cannot be said by types; the error is a key and a reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.max_header_bytes < 8192 {
            return Err(("public.max_header_bytes", "must be at least 8192".into()));
        }
        if self.listen.is_empty() && self.tls_listen.is_empty() {
            return Err(("public.listen", "names no address, and neither does `public.tls_listen`".into()));
        }
        for (key, path) in [
            ("public.tls_certificate_file", &self.tls_certificate_file),
            ("public.tls_key_file", &self.tls_key_file),
        ] {
            if !self.tls_listen.is_empty() && path.as_os_str().is_empty() {
                return Err((key, "must name a file, since `public.tls_listen` is set".into()));
            }
        }
        Ok(())
    }
}

/// A table as a commented TOML fragment: every key with its doc comment and default.
pub fn commented<T: Serialize + DocumentedFields>(table: &str, value: &T) -> String {
    let body = toml::to_string(value).unwrap_or_default();
    let mut out = format!("[{table}]\n");
    // Tables within it are printed by themselves.
    for line in body.lines().take_while(|line| !line.starts_with('[')).filter(|line| !line.is_empty()) {
        let key = line.split(" =").next().unwrap_or_default();
        if let Ok(doc) = T::get_field_docs(key) {
            for comment in doc.lines() {
                out.push_str("# ");
                out.push_str(comment.trim());
                out.push('\n');
            }
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Whole {
        public: PublicConfig,
    }

    #[test]
    fn printed_defaults_round_trip_and_comment_every_key() {
        let text = commented("public", &PublicConfig::default());
        let parsed: Whole = toml::from_str(&text).unwrap();
        assert_eq!(parsed.public, PublicConfig::default());
        for field in PublicConfig::FIELD_NAMES {
            assert!(text.contains(&format!("\n{field} = ")), "{field} is missing");
        }
        let comments = text.lines().filter(|line| line.starts_with("# ")).count();
        assert!(comments >= PublicConfig::FIELD_NAMES.len());
    }
}
