//! What can go wrong before a node serves: configuration, listeners, certificates.

use std::net::SocketAddr;
use std::path::PathBuf;

/// A failure of the node's own set-up. Its text names the thing and the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A configuration file is not what it should be.
    #[error("{}:{line}: {message}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Key and reason, and the nearest known key where there is one.
        message: String,
    },
    /// A listening socket could not be had.
    #[error("cannot listen on {address}: {source}; another process may hold the port; it is set by `{key}`")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The configuration key that names it.
        key: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate or key could not be used.
    #[error("cannot use {}: {reason}; it is set by `{key}`", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The configuration key or the option that names it.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The bearer token of the admin listener could not be read.
    #[error("cannot read the admin token {}: {source}; it is set by `admin.token_file`", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The logger could not be installed.
    #[error("cannot set up logging: {0}")]
    Logging(String),
}
