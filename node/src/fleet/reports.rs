//! Reports of clients that could not verify what they got: the node looks at its own copy.

use std::time::Instant;

use skerry_registry::api::ReportListener;
use skerry_registry::message::Report;
use skerry_store::{Catalogue, ChunkId, StoreError};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Reports that wait; anybody may send them, so further ones are not looked into.
const WAITING: usize = 64;
/// Chunks that are looked at for a report of a whole resource: its first ones, so that nobody keeps the disk
/// busy with one line.
const MOST_CHUNKS: usize = 256;
/// Rest after each report, times what looking into it took: anybody may send them, and the disk is for those
/// who fetch.
const REST: u32 = 4;

/// Checks what is reported, one report after the other.
pub struct Recheck(mpsc::Sender<Report>);

impl Recheck {
    /// Looks into `catalogue` on the background runtime, for as long as this is kept.
    pub fn start(catalogue: Catalogue, background: &Handle) -> Self {
        let (sender, mut reports) = mpsc::channel(WAITING);
        background.spawn(async move {
            while let Some(report) = reports.recv().await {
                let (catalogue, began) = (catalogue.clone(), Instant::now());
                let checked = tokio::task::spawn_blocking(move || check(&catalogue, &report)).await;
                if let Ok(Err(error)) = checked {
                    log::warn!("what a client reported cannot be looked at: {error}");
                }
                tokio::time::sleep(began.elapsed() * REST).await;
            }
        });
        Self(sender)
    }
}

impl ReportListener for Recheck {
    fn reported(&self, report: &Report) {
        if self.0.try_send(report.clone()).is_err() {
            log::debug!("too many reports of clients: one is not looked into");
        }
    }
}

/// Reads and hashes what is reported. Damaged chunks are dropped, and fetched again when they are asked for.
fn check(catalogue: &Catalogue, report: &Report) -> Result<(), StoreError> {
    let Ok(id) = report.resource.parse::<ChunkId>() else { return Ok(()) };
    let Some(held) = catalogue.resource(&id)? else { return Ok(()) };
    let chunks = match report.chunk {
        Some(chunk) => usize::try_from(chunk).into_iter().collect::<Vec<_>>(),
        None => (0..held.resource.chunks.len().min(MOST_CHUNKS)).collect(),
    };
    let mut damaged = 0;
    for located in chunks.iter().filter_map(|index| held.located(*index)) {
        damaged += u32::from(!catalogue.store().recheck_blocking(located)?);
    }
    if damaged > 0 {
        log::error!(resource:% = id, chunks = damaged; "a client was right: chunks were damaged, and are dropped");
    } else {
        log::info!(resource:% = id; "a client reported bad bytes; what is held here is sound");
    }
    Ok(())
}
