//! `[cache]`, the defaults of every site, and `[sites.NAME]`.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

/// `[cache]`: defaults for every site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Without explicit freshness: this part of the time since `Last-Modified` (RFC 9111 §4.2.2).
    pub heuristic_fraction: f64,
    /// Longest such heuristic freshness.
    pub heuristic_max_seconds: u64,
    /// How long 404, 410 and the like are kept when the origin says nothing; 0 means not.
    pub negative_seconds: u64,
    /// Freshness of files and S3 objects, which say nothing of it.
    pub file_fresh_seconds: u64,
    /// Serve stale for so long while validating, when the origin names no such time (RFC 5861).
    pub stale_while_revalidate_seconds: u64,
    /// Serve stale for so long when the origin fails, when it names no such time (RFC 5861).
    pub stale_if_error_seconds: u64,
    /// Longest wait for a connection to an origin; the same for every site, since they share one client.
    pub connect_timeout_seconds: u64,
    /// Longest wait for the header of an origin's answer.
    pub response_timeout_seconds: u64,
    /// Longest wait between two pieces of an origin's body.
    pub read_timeout_seconds: u64,
    /// Requests to one origin at once; further ones wait.
    pub max_origin_connections: usize,
    /// Larger objects are passed on and not kept; 0 means no limit.
    pub max_object_bytes: u64,
    /// Memory for the records of hot objects.
    pub object_memory_bytes: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            heuristic_fraction: 0.1,
            heuristic_max_seconds: 86_400,
            negative_seconds: 0,
            file_fresh_seconds: 60,
            stale_while_revalidate_seconds: 0,
            stale_if_error_seconds: 0,
            connect_timeout_seconds: 5,
            response_timeout_seconds: 30,
            read_timeout_seconds: 30,
            max_origin_connections: 256,
            max_object_bytes: 0,
            object_memory_bytes: 64 << 20,
        }
    }
}

impl CacheConfig {
    /// What cannot be said by types; the error is a key and a reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if !(0.0..=1.0).contains(&self.heuristic_fraction) {
            return Err(("cache.heuristic_fraction", "must be from 0 to 1".into()));
        }
        if self.max_origin_connections == 0 {
            return Err(("cache.max_origin_connections", "must be at least 1".into()));
        }
        Ok(())
    }
}

/// `[sites.NAME]`: a host name, or `default`, and its origin. Every key but `origin` overrides the
/// one of `[cache]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields)]
pub struct SiteConfig {
    /// Where misses go: http://, https://, file:///folder or s3://bucket/prefix.
    pub origin: String,
    /// Overrides `cache.heuristic_fraction`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heuristic_fraction: Option<f64>,
    /// Overrides `cache.heuristic_max_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heuristic_max_seconds: Option<u64>,
    /// Overrides `cache.negative_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_seconds: Option<u64>,
    /// Overrides `cache.file_fresh_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_fresh_seconds: Option<u64>,
    /// Overrides `cache.stale_while_revalidate_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_while_revalidate_seconds: Option<u64>,
    /// Overrides `cache.stale_if_error_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_if_error_seconds: Option<u64>,
    /// Overrides `cache.response_timeout_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_timeout_seconds: Option<u64>,
    /// Overrides `cache.read_timeout_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_timeout_seconds: Option<u64>,
    /// Overrides `cache.max_origin_connections`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_origin_connections: Option<usize>,
    /// Overrides `cache.max_object_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_object_bytes: Option<u64>,
}

impl SiteConfig {
    /// The site's settings over the defaults.
    pub fn over(&self, defaults: &CacheConfig) -> CacheConfig {
        let mut whole = defaults.clone();
        macro_rules! take {
            ($($key:ident),*) => { $(if let Some(value) = self.$key { whole.$key = value; })* };
        }
        take!(heuristic_fraction, heuristic_max_seconds, negative_seconds, file_fresh_seconds);
        take!(stale_while_revalidate_seconds, stale_if_error_seconds);
        take!(response_timeout_seconds, read_timeout_seconds, max_origin_connections, max_object_bytes);
        whole
    }

    /// What cannot be said by types; the error is a key of the table and a reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        crate::origin::parse(&self.origin).map(drop).map_err(|reason| ("origin", reason))
    }
}
