//! What discovery asks of the rest of the node.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::error::Unlisted;
use crate::metrics::{By, Metrics};
use crate::schedule::MOST;

/// Changes that come close together are looked at once.
const SETTLE: Duration = Duration::from_secs(1);
/// From one list to the next, at least; before the next when one could not be read.
const PAUSE: Duration = Duration::from_secs(5);

/// What the node holds, as far as strangers may hear of it.
pub trait Torrents: Send + Sync + 'static {
    /// Calls `take` with every info-hash, as it travels (20 bytes, BEP 52), of the torrents that are held
    /// and not private (BEP 27), while it says true. Blocks for the disk.
    ///
    /// # Errors
    /// When the list cannot be read to its end.
    fn each(&self, take: &mut dyn FnMut([u8; 20]) -> bool) -> Result<(), Unlisted>;

    /// Counts every change of what is held.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// The info-hashes that are announced.
pub(crate) type Listed = Arc<[[u8; 20]]>;

/// Lists what is held, and again when that has changed, for as long as it is polled. Who announces it
/// follows by `told`; what goes wrong is counted for `ways`.
pub(crate) async fn keep_listed(
    torrents: Arc<dyn Torrents>,
    told: watch::Sender<Listed>,
    metrics: Metrics,
    ways: Vec<By>,
) {
    let mut changes = torrents.changes();
    loop {
        changes.mark_unchanged();
        let listing = torrents.clone();
        match tokio::task::spawn_blocking(move || list(&*listing)).await {
            Ok(Ok(held)) => {
                metrics.info_hashes.set(held.len() as i64);
                told.send_if_modified(|before| {
                    let has_changed = **before != *held;
                    *before = held;
                    has_changed
                });
            }
            Ok(Err(error)) => {
                ways.iter().for_each(|by| metrics.error(*by, "list"));
                log::warn!("{error}; what was listed before is announced");
                changes.mark_changed();
            }
            Err(_) => return,
        }
        tokio::time::sleep(PAUSE).await;
        if changes.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(SETTLE).await;
    }
}

fn list(torrents: &dyn Torrents) -> Result<Listed, Unlisted> {
    let mut held = Vec::new();
    let mut seen = HashSet::new();
    let mut is_whole = true;
    torrents.each(&mut |info_hash| {
        is_whole = held.len() < MOST;
        if is_whole && seen.insert(info_hash) {
            held.push(info_hash);
        }
        is_whole
    })?;
    if !is_whole {
        log::warn!("more than {MOST} info-hashes are held; the first {MOST} are announced");
    }
    Ok(held.into())
}

#[cfg(test)]
pub(crate) mod tests {
    use parking_lot::Mutex;
    use prometheus::Registry;

    use super::*;

    /// What a test says is held.
    pub(crate) struct Holds {
        held: Mutex<Option<Vec<[u8; 20]>>>,
        changes: watch::Sender<u64>,
    }

    impl Holds {
        pub(crate) fn of(held: &[[u8; 20]]) -> Arc<Self> {
            let held = Mutex::new(Some(held.to_vec()));
            Arc::new(Self { held, changes: watch::Sender::new(0) })
        }

        pub(crate) fn set(&self, held: Option<&[[u8; 20]]>) {
            *self.held.lock() = held.map(<[_]>::to_vec);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    impl Torrents for Holds {
        fn each(&self, take: &mut dyn FnMut([u8; 20]) -> bool) -> Result<(), Unlisted> {
            let held = self.held.lock().clone().ok_or_else(|| Unlisted("no disk".into()))?;
            let _ = held.into_iter().all(take);
            Ok(())
        }

        fn changes(&self) -> watch::Receiver<u64> {
            self.changes.subscribe()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_listed_again_when_it_changes() {
        let holds = Holds::of(&[[1; 20], [2; 20], [1; 20]]);
        let (told, mut listed) = watch::channel(Listed::from([]));
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let listing = keep_listed(holds.clone(), told, metrics.clone(), vec![By::Lsd]);
        let _listing = tokio::spawn(listing);
        listed.changed().await.unwrap();
        assert_eq!(**listed.borrow_and_update(), [[1; 20], [2; 20]]);
        assert_eq!(metrics.info_hashes.get(), 2);

        holds.set(None);
        tokio::time::sleep(4 * PAUSE).await;
        assert!(!listed.has_changed().unwrap());
        assert!(metrics.errors(By::Lsd) > 1 && metrics.errors(By::Dht) == 0);

        holds.set(Some(&[[3; 20]]));
        listed.changed().await.unwrap();
        assert_eq!(**listed.borrow_and_update(), [[3; 20]]);
    }

    #[test]
    fn no_more_are_listed_than_can_be_announced() {
        let all: Vec<[u8; 20]> = (0..MOST as u32 + 10)
            .map(|number| {
                let mut hash = [0; 20];
                hash[..4].copy_from_slice(&number.to_be_bytes());
                hash
            })
            .collect();
        assert_eq!(list(&*Holds::of(&all)).unwrap().len(), MOST);
    }
}
