//! What can go wrong before a client is sent anywhere.

use std::path::PathBuf;

/// The selector could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SelectorError {
    /// The files cannot be watched.
    #[error("cannot watch {path} for changes: {source}", path = path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Metrics were registered twice.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Why a file is not taken; what was read from it before stays.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is longer than anything of its kind.
    #[error("{path} is longer than {most_bytes} bytes", path = path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// What is read at most.
        most_bytes: u64,
    },
    /// It is no coverage zone file; the reason names zone and entry where there is one.
    #[error("{path} is no coverage zone file: {source}", path = path.display())]
    Zones {
        /// The file.
        path: PathBuf,
        /// What is wrong, and at which line.
        source: serde_json::Error,
    },
    /// It is no MaxMind DB file.
    #[error("{path} is no MaxMind DB file: {source}", path = path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: maxminddb::MaxMindDbError,
    },
}
