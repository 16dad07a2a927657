//! Parts of objects that are missing, fetched for who reads them.

use std::ops::Range;
use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};
use skerry_core::Body;

use crate::body::Source;
use crate::engine::Cache;
use crate::error::FetchError;
use crate::fill::Fill;
use crate::object::Variant;
use crate::pump::Ends;
use crate::rfc::conditional::{remove_conditions, validators_agree};
use crate::rfc::content_range::ContentRange;

impl Cache {
    /// Fetches the missing bytes at the start of `wanted` of an object that is held in part. One
    /// exchange serves everybody who misses them.
    pub(crate) async fn fetch_missing(
        self: Arc<Self>,
        source: Source,
        wanted: Range<u64>,
    ) -> Result<Arc<Fill>, FetchError> {
        let content = source.object.body.clone();
        let length = content.length().ok_or(FetchError::Changed)?;
        if !source.object.has_strong_validator() {
            self.forget(&source.site, source.key.clone(), Some(source.object.uid)).await;
            return Err(FetchError::Changed);
        }
        let chunk = u64::from(self.store.config().chunk_bytes);
        let (missing, fill) = {
            let extents = content.extents.read();
            let mut start = wanted.start - wanted.start % chunk;
            while let Some(held) = extents.at(start).filter(|_| start < wanted.start) {
                start = held.range().end.min(wanted.start);
            }
            let wanted_end =
                wanted.end.min(length).checked_next_multiple_of(chunk).unwrap_or(length).min(length);
            let missing = start..extents.next_held(wanted.start, wanted_end).max(wanted.start + 1);
            let mut fills = content.fills.lock();
            fills.retain(|fill| fill.strong_count() > 0);
            if let Some(running) =
                fills.iter().filter_map(std::sync::Weak::upgrade).find(|fill| fill.covers(wanted.start))
            {
                return Ok(running);
            }
            let fill = Fill::new(missing.start, Some(missing.end), Some(self.reach()));
            fills.push(Arc::downgrade(&fill));
            (missing, fill)
        };
        let variant = Variant::of(source.object.clone(), &source.request).ok_or(FetchError::Changed)?;
        let cache = self.clone();
        let (running, place) = (fill.clone(), fill.reader(missing.start));
        self.background.spawn(async move {
            let _ends = Ends(running.clone());
            let _comes = cache.index.coming(&source.key, &source.object);
            let outcome = cache.slice(&source, &missing, length).await;
            match outcome {
                Ok(body) => {
                    cache.pump(&source.site, &source.key, &variant, &running, missing, body, place).await;
                }
                Err(error) => {
                    if matches!(error, FetchError::Changed) {
                        cache.forget(&source.site, source.key.clone(), Some(source.object.uid)).await;
                    }
                    running.finish(Err(error));
                }
            }
        });
        Ok(fill)
    }

    /// Asks for exactly these bytes of exactly this version.
    async fn slice(&self, source: &Source, missing: &Range<u64>, length: u64) -> Result<Body, FetchError> {
        let stored = &source.object.headers;
        let mut headers = self.origin_headers(&source.request);
        remove_conditions(&mut headers);
        let last = if missing.end == length { String::new() } else { (missing.end - 1).to_string() };
        if let Ok(range) = HeaderValue::from_str(&format!("bytes={}-{last}", missing.start)) {
            headers.insert(header::RANGE, range);
        }
        if let Some(validator) = stored.get(header::ETAG).or_else(|| stored.get(header::LAST_MODIFIED)) {
            headers.insert(header::IF_RANGE, validator.clone());
        }
        let response =
            self.exchange(&source.site, Method::GET, &source.key.target, headers, Body::Empty, None).await?;
        let Some(ContentRange::Bytes { range, total }) = ContentRange::of(response.headers()) else {
            return Err(FetchError::Changed);
        };
        let same = response.status() == StatusCode::PARTIAL_CONTENT
            && validators_agree(stored, response.headers(), Some(length), total)
            && range.start == missing.start
            && range.end >= missing.end;
        if same { Ok(response.into_body()) } else { Err(FetchError::Changed) }
    }
}
