//! What this node holds, told to the control node whenever it changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skerry_registry::{Holding, client::Membership, fleet::MOST_TORRENTS};
use skerry_store::chunk::hex;
use skerry_store::{Catalogue, ChunkId, StoreError};

/// Changes that come close together are told at once.
const TOGETHER: Duration = Duration::from_millis(200);
/// All that is held is read for a change: of the time one part in so many, at most.
const PART: u32 = 10;
/// Records read at once.
const PAGE: usize = 500;

/// Tells the control node what is held now, and then every change, for as long as it is polled.
pub async fn tell_holdings(catalogue: Catalogue, membership: Arc<Membership>) {
    let mut changes = catalogue.changes();
    let mut told: HashMap<String, Holding> = HashMap::new();
    loop {
        changes.mark_unchanged();
        let began = Instant::now();
        let listed = catalogue.clone();
        match tokio::task::spawn_blocking(move || holdings(&listed)).await {
            Ok(Ok(now)) => {
                for gone in told.keys().filter(|resource| !now.contains_key(*resource)) {
                    membership.drop_holding(gone);
                }
                for (resource, holding) in &now {
                    if told.get(resource) != Some(holding) {
                        membership.hold(holding.clone());
                    }
                }
                told = now;
            }
            Ok(Err(error)) => log::warn!("what is held cannot be told: {error}"),
            Err(_) => return,
        }
        let pause = TOGETHER.max(began.elapsed() * (PART - 1));
        if changes.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Every resource, and every torrent of more than one, by its id.
fn holdings(catalogue: &Catalogue) -> Result<HashMap<String, Holding>, StoreError> {
    let mut held = HashMap::new();
    let mut from = Vec::new();
    loop {
        let page = catalogue.list(&from, PAGE)?;
        for one in &page {
            let length = one.resource.length;
            let held_bytes = if one.pin.is_some() { length } else { present(catalogue, one)? };
            let holding = Holding {
                resource: one.id().to_string(),
                length,
                held_bytes,
                complete: held_bytes == length,
                info_hashes: Vec::new(),
            };
            held.insert(holding.resource.clone(), holding);
        }
        match page.last() {
            Some(last) if page.len() == PAGE => from = [&last.id().0[..], &[0]].concat(),
            _ => break,
        }
    }
    let mut from = Vec::new();
    loop {
        let page = catalogue.torrents(&from, PAGE)?;
        for info_hash in &page {
            if let Some(torrent) = catalogue.torrent(info_hash)? {
                add_torrent(&mut held, &torrent);
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => from = [&last[..], &[0]].concat(),
            _ => break,
        }
    }
    Ok(held)
}

/// Names a torrent's info-hashes with its only resource, or as a holding of its own.
fn add_torrent(held: &mut HashMap<String, Holding>, torrent: &skerry_store::catalogue::Torrent) {
    let info = torrent.metainfo.info();
    let hashes: Vec<String> = info.hashes().map(|hash| hex(&hash.wire())).collect();
    let resources: HashSet<&ChunkId> = torrent.files.iter().flatten().collect();
    if resources.len() == 1 && info.single_file() {
        let only = resources.into_iter().next().and_then(|id| held.get_mut(&id.to_string()));
        if let Some(holding) = only {
            holding.info_hashes.extend(hashes);
            holding.info_hashes.truncate(MOST_TORRENTS);
        }
        return;
    }
    // Files that are alike count each, as they do in the torrent's length.
    let of_file = |id: &ChunkId| held.get(&id.to_string()).map_or(0, |file| file.held_bytes);
    let held_bytes = torrent.files.iter().flatten().map(of_file).sum();
    // A package's id is its v2 info-hash; one of v1 alone has its v1 info-hash before zeros.
    let id = match (info.hash_v2(), info.hash_v1()) {
        (Some(hash), _) => hash.to_string(),
        (None, Some(hash)) => format!("{:0<64}", hash.to_string()),
        (None, None) => return,
    };
    let length = info.length();
    let holding = Holding {
        resource: id.clone(),
        length,
        held_bytes,
        complete: held_bytes >= length,
        info_hashes: hashes,
    };
    held.insert(id, holding);
}

/// Bytes of an unpinned resource that are still there.
fn present(catalogue: &Catalogue, held: &skerry_store::Held) -> Result<u64, StoreError> {
    let presence = catalogue.presence(held)?;
    let there = presence.iter().enumerate().filter(|(_, is_there)| **is_there);
    Ok(there.map(|(index, _)| u64::from(held.chunk_length(index))).sum())
}
