//! Where pieces go, and what limits how fast they come.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_wire::metainfo::{Layout, Metainfo};
use skerry_wire::peer::Bitfield;

/// Takes what is verified.
///
/// A download has no more pieces in memory than its options allow: while a sink is busy, peers wait.
pub trait Sink: Send + Sync + 'static {
    /// Why something cannot be kept. It ends the download.
    type Error: std::error::Error + Send + 'static;

    /// The torrent is known, with all that its pieces are verified by. Called once, before any piece;
    /// returns which pieces there are already, as many bits as [`piece_count`] says.
    fn begin(&self, metainfo: &Metainfo) -> impl Future<Output = Result<Bitfield, Self::Error>> + Send;

    /// A verified piece. Pieces come in any order, a few at a time, each once; a v2 torrent's end with
    /// their files, a v1 torrent's run through them ([`Layout`]).
    fn piece(&self, piece: u32, data: Bytes) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// How many pieces a torrent has, as a [`Sink`] counts them: by v2's layout where there is one.
pub fn piece_count(metainfo: &Metainfo) -> u32 {
    let info = metainfo.info();
    info.layout_v2().or(info.layout_v1()).map_or(0, Layout::piece_count)
}

/// A rate limit, perhaps one that others share: told of bytes that have come, it says how long to wait
/// before more are read from the same peer.
pub type Limit = Arc<dyn Fn(u64) -> Duration + Send + Sync>;
