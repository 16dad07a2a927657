//! A member's certificate is renewed by the member itself: when a third of its life is left the node makes a
//! new key, and the control node, which believes the old certificate, signs it.
//!
//! Certificate and key are two files. Both new ones are on the disk before the first takes its place, the key
//! goes first, and what a crash cuts short between the two is ended at the next start.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::Method;
use skerry_core::api::ROOT;
use tokio::task::spawn_blocking;

use crate::ca::{self, NewKey};
use crate::client::{Transport, words};
use crate::clock::wall_ms;
use crate::error::{CaError, TransportError};
use crate::identity;
use crate::message::{RenewAnswer, RenewRequest};
use crate::metrics::Metrics;

/// How often the certificate is looked at, and how long after a failure it is tried again, at most.
const LOOK: Duration = Duration::from_secs(3600);
/// How long the control node may take for an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Nodes that were enrolled together are not renewed together: part of the last third over which they are
/// spread, one in so many.
const SPREAD: u64 = 10;

/// Why a certificate is not renewed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenewError {
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("it has ended; enrol the machine again with a new token")]
    Ended,
    #[error("the control node answers {0}")]
    Refused(String),
    #[error("the control node's answer is no certificate of this node for its new key")]
    Answer,
    #[error("the work was cut short")]
    Cut(#[from] tokio::task::JoinError),
}

/// Where a node's certificate and its key are.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Files {
    /// The certificate, DER.
    pub(crate) fn read(&self) -> Result<Vec<u8>, CaError> {
        let path = &self.certificate;
        let text = fs::read_to_string(path).map_err(failed("cannot read", path))?;
        ca::der_of(&text).ok_or_else(|| {
            let reason = "no certificate is in it".to_owned();
            CaError::Content { path: path.clone(), wanted: "certificate", reason }
        })
    }

    /// Ends a replacement that a crash cut short between the two files.
    pub(crate) fn settle(&self) {
        let new = beside(&self.certificate);
        let Ok(certificate) = fs::read_to_string(&new) else { return };
        let key = fs::read_to_string(&self.key).unwrap_or_default();
        let is_due = ca::der_of(&certificate).is_some_and(|der| ca::belong_together(&der, &key));
        if is_due && let Err(error) = fs::rename(&new, &self.certificate) {
            log::error!(
                "{} is this node's certificate and cannot be put in its place: {error}",
                new.display()
            );
        }
    }

    /// Puts a certificate and its key, PEM, in place of those that are there.
    fn replace(&self, certificate: &str, key: &str) -> Result<(), CaError> {
        let (new_certificate, new_key) = (beside(&self.certificate), beside(&self.key));
        for left in [&new_certificate, &new_key] {
            match fs::remove_file(left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("cannot remove", left)(error));
                }
                _ => {}
            }
        }
        if self.certificate == self.key {
            ca::write_new(&new_key, &format!("{certificate}{key}"), 0o600)?;
            return put(&new_key, &self.key);
        }
        ca::write_new(&new_key, key, 0o600)?;
        ca::write_new(&new_certificate, certificate, 0o644)?;
        put(&new_key, &self.key)?;
        put(&new_certificate, &self.certificate)
    }
}

/// Renames a file, and waits for the disk.
fn put(new: &Path, path: &Path) -> Result<(), CaError> {
    fs::rename(new, path).map_err(failed("cannot replace", path))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("cannot write", folder))
}

/// Where a new file waits: in the same folder, so that it can be renamed.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::File { what, path, source }
}

/// When to renew a certificate of these times: with a third of its life left, or a little later; `spread` is
/// a random number. Seconds since 1970.
fn due((begins, ends): (u64, u64), spread: u64) -> u64 {
    let last_third = ends.saturating_sub(begins) / 3;
    ends.saturating_sub(last_third).saturating_add(spread % (last_third / SPREAD).max(1))
}

/// Renews the certificate of one node.
pub(crate) struct Renewal {
    pub(crate) id: String,
    pub(crate) files: Files,
    /// When the certificate ends, seconds since 1970, for whoever tells.
    pub(crate) ends: Arc<AtomicU64>,
    pub(crate) metrics: Metrics,
}

impl Renewal {
    /// Renews it again and again.
    pub(crate) async fn run(self, transport: Arc<dyn Transport>) {
        let spread = fastrand::u64(..);
        loop {
            match self.look(&*transport, spread, wall_ms() / 1000).await {
                Ok(false) => {}
                Ok(true) => {
                    self.metrics.renewals.with_label_values(&["taken"]).inc();
                    log::info!(ends = self.ends.load(Relaxed); "this node's certificate was renewed");
                }
                Err(error) => {
                    self.metrics.renewals.with_label_values(&["refused"]).inc();
                    log::warn!("this node's certificate is not renewed: {error}");
                }
            }
            tokio::time::sleep(LOOK.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }

    /// Renews it when it is due, and tells whether it was.
    async fn look(&self, transport: &dyn Transport, spread: u64, now: u64) -> Result<bool, RenewError> {
        let files = self.files.clone();
        // An operator may have put another one there.
        let read = spawn_blocking(move || {
            files.settle();
            files.read()
        });
        let times = identity::validity(&read.await??).ok_or(RenewError::Answer)?;
        self.tell(times.1);
        if now < due(times, spread) {
            return Ok(false);
        }
        if now >= times.1 {
            return Err(RenewError::Ended);
        }
        let (key, certificate) = self.ask(transport).await?;
        let ends = self.check(&certificate, &key).filter(|ends| *ends > times.1).ok_or(RenewError::Answer)?;
        let files = self.files.clone();
        spawn_blocking(move || files.replace(&certificate, &key)).await??;
        self.tell(ends);
        if let Err(error) = transport.renew() {
            log::warn!("the new certificate is used after a restart: {error}");
        }
        Ok(true)
    }

    /// A new key, and the certificate for it.
    async fn ask(&self, transport: &dyn Transport) -> Result<(String, String), RenewError> {
        let NewKey { key, request } = NewKey::make()?;
        let body = serde_json::to_vec(&RenewRequest { csr: request }).expect("texts can always be written");
        let path = format!("{ROOT}nodes/{}/certificate", self.id);
        let reply = tokio::time::timeout(ANSWER, transport.send(Method::POST, &path, body.into())).await;
        let reply = reply.map_err(|_| TransportError("it did not answer in time".into()))??;
        if !reply.status.is_success() {
            return Err(RenewError::Refused(words(&reply)));
        }
        let answer: RenewAnswer = serde_json::from_slice(&reply.body).map_err(|_| RenewError::Answer)?;
        Ok((key, answer.certificate))
    }

    /// When a certificate ends that is this node's, for its new key.
    fn check(&self, certificate: &str, key: &str) -> Option<u64> {
        let der = ca::der_of(certificate)?;
        let is_ours = identity::node_of(&der)? == self.id && ca::belong_together(&der, key);
        if is_ours { identity::ends(&der) } else { None }
    }

    fn tell(&self, ends: u64) {
        self.ends.store(ends, Relaxed);
        self.metrics.certificate_ends.set(i64::try_from(ends).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;
    use parking_lot::Mutex;
    use skerry_core::role::BoxFuture;

    use super::*;
    use crate::ca::{Authority, NODE_CERTIFICATE, NODE_KEY, Request, Subject};
    use crate::member::Reply;
    use crate::message;

    const NOW: u64 = 1_700_000_000;
    const DAY: u64 = 86_400;

    /// A control node that signs for 30 days from a time on, or refuses.
    struct Signer {
        authority: Authority,
        /// Seconds since 1970.
        now: u64,
        id: &'static str,
        refuses: bool,
        asked: Mutex<u32>,
        renewed: Mutex<u32>,
    }

    fn sign(authority: &Authority, request: &str, id: &str, now: u64) -> String {
        let request = Request::parse(request).unwrap();
        authority.sign(&request, Subject { id, names: &[] }, 30, now * 1000).unwrap()
    }

    impl Transport for Signer {
        fn send<'a>(
            &'a self,
            _: Method,
            path: &'a str,
            body: Bytes,
        ) -> BoxFuture<'a, Result<Reply, TransportError>> {
            assert_eq!(path, "/.skerry/v1/nodes/a/certificate");
            *self.asked.lock() += 1;
            let (status, body) = if self.refuses {
                (StatusCode::FORBIDDEN, r#"{"detail": "no"}"#.to_owned())
            } else {
                let request: RenewRequest = message::read(&body).unwrap();
                let certificate = sign(&self.authority, &request.csr, self.id, self.now);
                (StatusCode::OK, serde_json::to_string(&RenewAnswer { certificate }).unwrap())
            };
            Box::pin(std::future::ready(Ok(Reply { status, body: body.into() })))
        }

        fn renew(&self) -> Result<(), String> {
            *self.renewed.lock() += 1;
            Ok(())
        }
    }

    /// A node whose certificate begins now, and its control node.
    fn new(folder: &Path) -> (Renewal, Signer) {
        let authority = Authority::create(&folder.join("ca"), NOW * 1000).unwrap();
        let files = Files { certificate: folder.join(NODE_CERTIFICATE), key: folder.join(NODE_KEY) };
        let NewKey { key, request } = NewKey::make().unwrap();
        ca::write_new(&files.certificate, &sign(&authority, &request, "a", NOW), 0o644).unwrap();
        ca::write_new(&files.key, &key, 0o600).unwrap();
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let renewal = Renewal { id: "a".into(), files, ends: Arc::default(), metrics };
        let (asked, renewed) = (Mutex::default(), Mutex::default());
        (renewal, Signer { authority, now: NOW, id: "a", refuses: false, asked, renewed })
    }

    fn fits(files: &Files) -> bool {
        ca::belong_together(&files.read().unwrap(), &fs::read_to_string(&files.key).unwrap())
    }

    #[tokio::test]
    async fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (renewal, mut signer) = new(folder.path());
        let (before, key) = (renewal.files.read().unwrap(), fs::read(&renewal.files.key).unwrap());
        assert!(!renewal.look(&signer, 0, NOW + 19 * DAY).await.unwrap());
        assert_eq!((*signer.asked.lock(), renewal.ends.load(Relaxed)), (0, NOW + 30 * DAY));
        signer.now = NOW + 21 * DAY;
        assert!(renewal.look(&signer, 0, signer.now).await.unwrap());
        assert_eq!((renewal.ends.load(Relaxed), *signer.renewed.lock()), (NOW + 51 * DAY, 1));
        let after = renewal.files.read().unwrap();
        assert!(after != before && fs::read(&renewal.files.key).unwrap() != key && fits(&renewal.files));
        // Nothing is left beside them: the authority's folder, and the two.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        assert!(!renewal.look(&signer, 0, signer.now).await.unwrap());
    }

    #[tokio::test]
    async fn what_is_no_new_certificate_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (renewal, mut signer) = new(folder.path());
        let before = renewal.files.read().unwrap();
        let now = NOW + 25 * DAY;
        // Of another node, and no longer than the one that is there.
        (signer.id, signer.now) = ("b", now);
        assert!(matches!(renewal.look(&signer, 0, now).await, Err(RenewError::Answer)));
        (signer.id, signer.now) = ("a", NOW);
        assert!(matches!(renewal.look(&signer, 0, now).await, Err(RenewError::Answer)));
        signer.refuses = true;
        let error = renewal.look(&signer, 0, now).await.unwrap_err().to_string();
        assert!(error.contains("403") && error.ends_with(": no"), "{error}");
        assert_eq!(*signer.asked.lock(), 3);
        // The control node would not even be spoken to.
        assert!(matches!(renewal.look(&signer, 0, NOW + 31 * DAY).await, Err(RenewError::Ended)));
        assert_eq!((*signer.asked.lock(), *signer.renewed.lock()), (3, 0));
        assert!(renewal.files.read().unwrap() == before && fits(&renewal.files));
    }

    #[test]
    fn a_replacement_that_was_cut_short_is_ended_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let (renewal, signer) = new(folder.path());
        let files = renewal.files;
        let before = files.read().unwrap();
        let NewKey { key, request } = NewKey::make().unwrap();
        let certificate = sign(&signer.authority, &request, "a", NOW + DAY);
        // Before the first file was replaced: nothing happened.
        ca::write_new(&beside(&files.key), &key, 0o600).unwrap();
        ca::write_new(&beside(&files.certificate), &certificate, 0o644).unwrap();
        files.settle();
        assert!(files.read().unwrap() == before && fits(&files));
        // Between the two.
        fs::rename(beside(&files.key), &files.key).unwrap();
        assert!(!fits(&files));
        files.settle();
        assert!(files.read().unwrap() != before && fits(&files));
        // What is left of an attempt is not in the way of the next.
        ca::write_new(&beside(&files.key), "", 0o600).unwrap();
        files.replace(&certificate, &key).unwrap();
        assert!(fits(&files));
    }

    #[test]
    fn nodes_that_were_enrolled_together_are_not_renewed_together() {
        let times = (NOW, NOW + 30 * DAY);
        let all: Vec<u64> = (0..100).map(|seed| due(times, fastrand::Rng::with_seed(seed).u64(..))).collect();
        assert!(all.iter().all(|due| (NOW + 20 * DAY..NOW + 21 * DAY).contains(due)), "{all:?}");
        assert!(all.iter().max().unwrap() - all.iter().min().unwrap() > DAY / 2);
        assert_eq!((due((NOW, NOW), 7), due((7, 3), 9)), (NOW, 3));
    }
}
