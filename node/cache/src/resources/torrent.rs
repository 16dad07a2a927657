//! Torrents of what is held: the one of each resource, and others that operators bring.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use sha1::{Digest, Sha1};
use skerry_core::{Body, admin::json as json_answer, problem};
use skerry_store::{Catalogue, ChunkId, Held, StoreError};
use skerry_wire::metainfo::{Kind, Metainfo};

use super::{Resources, data_url};

impl Resources {
    /// `GET resources/ID.torrent`: hybrid, with the node's trackers and itself as web seed. Clients that
    /// stumble over hybrids ask with `?version=1` for one of v1 alone; `?version=2` is the other.
    pub(super) async fn torrent_file(
        &self,
        held: &Arc<Held>,
        base: &str,
        query: Option<&str>,
    ) -> Response<Body> {
        let kind = match query {
            None => Kind::Hybrid,
            Some("version=1") => Kind::V1,
            Some("version=2") => Kind::V2,
            Some(query) => {
                let detail = format!("`{query}` is not known; write version=1 or version=2, or nothing");
                return problem::response(StatusCode::BAD_REQUEST, &detail);
            }
        };
        let (catalogue, of) = (self.catalogue.clone(), held.clone());
        let torrent = tokio::task::spawn_blocking(move || catalogue.add_torrent_of(&of, kind)).await;
        let Ok(Ok(torrent)) = torrent else {
            return problem::response(StatusCode::INTERNAL_SERVER_ERROR, "its torrent cannot be written");
        };
        let mut metainfo = torrent.metainfo.clone();
        metainfo.trackers = self.trackers.iter().map(|tracker| vec![tracker.clone()]).collect();
        metainfo.web_seeds = vec![data_url(base, held)];
        let mut response = Response::new(Body::from(Bytes::from(metainfo.to_bytes())));
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-bittorrent"));
        let file = format!("attachment; filename=\"{}.torrent\"", held.id());
        if let Ok(value) = HeaderValue::from_str(&file) {
            fields.insert(header::CONTENT_DISPOSITION, value);
        }
        response
    }

    /// `POST /torrents`: a torrent whose files are held. Files of v2 are found by their pieces roots; of
    /// v1 alone by `?resource=ID` in the order of the files. Pieces of v1 are checked, of hybrids too.
    pub(super) async fn add_torrent(&self, query: Option<&str>, body: &Bytes) -> Response<Body> {
        let bad = |reason: &str| problem::response(StatusCode::BAD_REQUEST, reason);
        let metainfo = match Metainfo::parse(body) {
            Ok(metainfo) => metainfo,
            Err(error) => return bad(&format!("the torrent cannot be read: {error}")),
        };
        let mut named = Vec::new();
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            match part.strip_prefix("resource=").map(str::parse::<ChunkId>) {
                Some(Ok(id)) => named.push(id),
                Some(Err(reason)) => return bad(reason),
                None => return bad(&format!("`{part}` is not known; write resource=ID")),
            }
        }
        let mut named = named.into_iter();
        let files: Vec<Option<ChunkId>> = metainfo
            .info()
            .files()
            .iter()
            .map(|file| match (file.length, file.pieces_root) {
                (0, _) => None,
                (_, Some(root)) => Some(ChunkId(root.0)),
                (_, None) => named.next(),
            })
            .collect();
        match self.add(metainfo, body, files).await {
            Ok(answer) => json_answer(&answer),
            Err((status, reason)) => problem::response(status, &reason),
        }
    }

    async fn add(
        &self,
        metainfo: Metainfo,
        bytes: &Bytes,
        files: Vec<Option<ChunkId>>,
    ) -> Result<serde_json::Value, (StatusCode, String)> {
        let failed = |error: &dyn std::fmt::Display| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        let mut held = Vec::new();
        for (file, id) in metainfo.info().files().iter().zip(&files) {
            let path = file.path.join("/");
            let missing = || {
                let reason = format!("`{path}` is not held; have it fetched with POST /resources first");
                (StatusCode::CONFLICT, reason)
            };
            if file.length == 0 {
                held.push(None);
                continue;
            }
            let id = id.ok_or_else(|| {
                let reason = format!("`{path}` has no v2 hash: name its resource with ?resource=ID");
                (StatusCode::BAD_REQUEST, reason)
            })?;
            let catalogue = self.catalogue.clone();
            let found = tokio::task::spawn_blocking(move || catalogue.resource(&id)).await;
            let found = found.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
            let found = found.ok_or_else(missing)?;
            if found.resource.length != file.length {
                let reason = format!(
                    "`{path}` is {} bytes in the torrent, and its resource {} bytes",
                    file.length, found.resource.length
                );
                return Err((StatusCode::CONFLICT, reason));
            }
            held.push(Some(found));
        }
        let piece = verify(&self.catalogue, &metainfo, &held).await.map_err(|error| failed(&error))?;
        if let Some(piece) = piece {
            let reason = format!("piece {piece} of the torrent is other content than what is held");
            return Err((StatusCode::CONFLICT, reason));
        }
        let (catalogue, bytes) = (self.catalogue.clone(), bytes.clone());
        let added = tokio::task::spawn_blocking(move || catalogue.add_torrent(&bytes, files)).await;
        let torrent = added.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let info = torrent.metainfo.info();
        Ok(json!({
            "name": info.name(),
            "files": info.files().len(),
            "info_hash_v1": info.hash_v1().map(|hash| hash.to_string()),
            "info_hash_v2": info.hash_v2().map(|hash| hash.to_string()),
        }))
    }
}

/// The first piece of v1 whose SHA-1 is not that of what is held.
async fn verify(
    catalogue: &Catalogue,
    metainfo: &Metainfo,
    held: &[Option<Arc<Held>>],
) -> Result<Option<u32>, StoreError> {
    let Some(layout) = metainfo.info().layout_v1() else { return Ok(None) };
    for piece in 0..layout.piece_count() {
        let mut sha1 = Sha1::new();
        for block in layout.piece(piece).into_iter().flatten() {
            let Some(held) = block.file.and_then(|file| held.get(file)?.as_ref()) else {
                for rest in (0..block.length).step_by(4096) {
                    sha1.update(&[0; 4096][..(block.length - rest).min(4096) as usize]);
                }
                continue;
            };
            let chunk_length = u64::from(held.resource.chunk_length);
            let (mut at, end) = (block.offset, block.offset + u64::from(block.length));
            while at < end {
                let Some(bytes) = catalogue.chunk(held, (at / chunk_length) as usize).await? else {
                    return Ok(Some(piece));
                };
                let from = (at % chunk_length) as usize;
                let to = bytes.len().min(from + (end - at) as usize);
                if from >= to {
                    return Ok(Some(piece));
                }
                let bytes = bytes.slice(from..to);
                // Nothing for a thread that others wait for.
                let hash = move || sha1.chain_update(bytes);
                sha1 = tokio::task::spawn_blocking(hash).await.map_err(|_| StoreError::Closing)?;
                at += (to - from) as u64;
            }
        }
        if metainfo.info().piece_hash(piece).is_none_or(|hash| hash.0 != <[u8; 20]>::from(sha1.finalize())) {
            return Ok(Some(piece));
        }
    }
    Ok(None)
}
