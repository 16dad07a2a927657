//! What the registry can refuse or fail at.

use std::path::PathBuf;

use http::StatusCode;

use crate::kv::MOST_VALUE;

/// A failure of the store of records.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// A record that was to be new is there.
    #[error("`{0}` is there already")]
    Exists(String),
    /// A record is not as it was read.
    #[error("`{key}` is not of revision {expected} any more")]
    Conflict {
        /// The record.
        key: String,
        /// What it was thought to be.
        expected: u64,
    },
    /// What was given is no key.
    #[error("`{0}` is no key: words of letters, digits, `.`, `_` and `-`, joined by `/`")]
    Key(String),
    /// A value is too large.
    #[error("the value of `{key}` has {bytes} bytes; at most {most} are kept", most = MOST_VALUE)]
    Large {
        /// The record.
        key: String,
        /// Its size.
        bytes: usize,
    },
    /// RocksDB's own failure: the disk, or a file that is damaged.
    #[error("registry: {0}")]
    Database(#[from] rust_rocksdb::Error),
    /// The database could not be opened.
    #[error("cannot open the registry in {}: {source}", path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// What RocksDB said.
        source: rust_rocksdb::Error,
    },
    /// Its folder could not be made.
    #[error("cannot make {}: {source}; it is set by `node.data_dir`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A later version wrote it.
    #[error(
        "the registry in {} is of format {found} and this version knows {known}; run the version that wrote it, or a later one",
        path.display()
    )]
    Format {
        /// The folder.
        path: PathBuf,
        /// What is there.
        found: u32,
        /// The latest that is known here.
        known: u32,
    },
    /// A record cannot be read.
    #[error("a record of the registry cannot be read: {0}")]
    Record(String),
}

/// A failure of the fleet's certificate authority.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A file could not be read or written.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was tried, as `cannot read`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key or certificate is there, and neither is ever overwritten.
    #[error("{} is there already; a key or certificate is never overwritten", .0.display())]
    There(PathBuf),
    /// A file holds something else.
    #[error("{} is no {wanted} in PEM: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What should be there.
        wanted: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate signing request is none.
    #[error("this is no certificate signing request (PKCS #10) in PEM: {0}")]
    Request(String),
    /// A request for a kind of key that is not signed.
    #[error("keys of certificates must be ECDSA on P-256 or P-384, or Ed25519")]
    Algorithm,
    /// A name that no certificate can carry.
    #[error("`{0}` is no host name or address")]
    Name(String),
    /// A name that no operator can have.
    #[error("`{0}` is no operator's name: at most 64 letters, digits and `-._@`, a letter or digit first")]
    Operator(String),
    /// More names than a certificate carries.
    #[error("a certificate carries at most {most} names")]
    Names {
        /// So many.
        most: usize,
    },
    /// A key or certificate could not be made.
    #[error("cannot make a {what}: {reason}")]
    Make {
        /// `key` or `certificate`.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

/// The registry could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Its store of records.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The fleet's certificate authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Metrics were registered twice.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The system gave no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(std::io::Error),
}

/// The control node gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the control node cannot be reached: {0}")]
pub struct TransportError(pub String);

/// Why a node or client is not let in, or not heard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// A field of the body cannot be.
    #[error("`{field}` {reason}")]
    Field {
        /// Its path.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody vouches for the caller.
    #[error(
        "this is for nodes of the fleet: connect over TLS with a node's certificate (`skerry node enrol`)"
    )]
    Nobody,
    /// A node spoke for another one.
    #[error("the certificate is node `{caller}`'s; it speaks for that node alone")]
    Other {
        /// Whose the certificate is.
        caller: String,
    },
    /// The node was thrown out.
    #[error("node `{0}` was revoked; enrol it under another id")]
    Denied(String),
    /// The node is thrown out, and that is not on record.
    #[error(
        "node `{id}` is out until this control node restarts, and no longer, since that cannot be written: \
         {source}; revoke it again once it can"
    )]
    Unwritten {
        /// The node.
        id: String,
        /// What the store said.
        source: KvError,
    },
    /// A node wants another certificate, and no enrolment of it is on record.
    #[error("no enrolment of node `{0}` is on record here; enrol it with a new token")]
    Unenrolled(String),
    /// A certificate that a newer one took the place of.
    #[error(
        "this certificate of node `{0}` is superseded: another holder of it was given a newer one, or the \
         node was enrolled anew; enrol the machine with a new token"
    )]
    Superseded(String),
    /// Another certificate would end sooner than the one that the node has.
    #[error("the certificate is good for longer than `registry.certificate_days` from now; there is time")]
    Early,
    /// Another machine has the node's id, and is alive.
    #[error(
        "another machine is node `{0}`, and is alive: two have one id; stop one of them, or enrol it under an \
         id of its own"
    )]
    Rival(String),
    /// The node has not registered.
    #[error("node `{0}` is not registered here; send a heartbeat first")]
    Unknown(String),
    /// A list of holdings that goes on from one that is not here.
    #[error("the list of holdings goes on from a generation that is not here; send it whole")]
    Generation,
    /// A bound of the registry is reached.
    #[error("the registry takes at most {most} {what}")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many.
        most: usize,
    },
    /// Nodes hold more than is known of them.
    #[error(
        "there is no room for more: {whose} may hold {most}, info-hashes counted as well, by `{key}` of the \
         control node"
    )]
    Holdings {
        /// `a node` or `the fleet`.
        whose: &'static str,
        /// So many.
        most: usize,
        /// The key that says so.
        key: &'static str,
    },
    /// More at once than is taken.
    #[error("more comes in than is taken; try again later")]
    Busy,
    /// A token that lets nobody in.
    #[error("the token is unknown, used or expired; an operator makes one with `skerry node token`")]
    Token,
    /// What is to be signed cannot be.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The store of records failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The system gave no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(std::io::Error),
}

impl Refused {
    pub(crate) fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field { field: field.into(), reason: reason.into() }
    }

    /// The status of its answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Field { .. }
            | Self::Ca(CaError::Request(_) | CaError::Algorithm | CaError::Name(_) | CaError::Names { .. }) => {
                StatusCode::BAD_REQUEST
            }
            Self::Nobody
            | Self::Other { .. }
            | Self::Denied(_)
            | Self::Unenrolled(_)
            | Self::Superseded(_)
            | Self::Token => StatusCode::FORBIDDEN,
            Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::Generation | Self::Rival(_) | Self::Early => StatusCode::CONFLICT,
            Self::Full { .. } | Self::Holdings { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::Ca(_) | Self::Kv(_) | Self::Unwritten { .. } | Self::Random(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}
