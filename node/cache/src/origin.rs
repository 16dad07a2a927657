//! Origins: HTTP servers by `hyper`, files and S3 buckets by `object_store`.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::{ClientConfigKey, GetOptions, GetRange, ObjectStore, RetryConfig};
use skerry_core::lane::Interim;
use skerry_core::{Body, BodyError};

use crate::config::CacheConfig;
use crate::error::FetchError;
use crate::rfc::content_range::ContentRange;
use crate::rfc::fields::strip_hop_by_hop;
use crate::rfc::range::{RangeSet, resolve};

/// Header fields of an origin's answer, and bytes of them, that are taken.
const MAX_FIELDS: usize = 256;
const MAX_HEAD_BYTES: usize = 128 * 1024;

/// Idle connections are given up before origins do it: the shortest time limit in wide use is 5 s,
/// and a request that is not safe cannot be sent twice when it meets the end of its connection.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// The one HTTP client of the node: its connections are pooled over all sites.
pub type HttpClient = Client<HttpsConnector<HttpConnector>, Body>;

/// Where a site's misses go.
pub enum Origin {
    /// An HTTP server.
    Http {
        /// http or https.
        scheme: Scheme,
        /// Host and port.
        authority: Authority,
        /// Put before every target; empty or `/…` without a slash at the end.
        prefix: String,
        /// The node's client.
        client: Box<HttpClient>,
    },
    /// A folder or a bucket.
    Objects {
        /// The store, with its prefix.
        store: Arc<dyn ObjectStore>,
        /// The folder, when it is one: nothing outside it is served, through links either.
        folder: Option<PathBuf>,
        /// As configured.
        url: String,
        /// Freshness of what it serves.
        fresh_seconds: u64,
    },
}

/// What an origin's URL says.
pub enum Parsed {
    /// An HTTP server.
    Http(Scheme, Authority, String),
    /// A folder.
    Files(PathBuf),
    /// A bucket.
    S3(String),
}

/// Reads an origin's URL; the error says what is wrong with it.
pub fn parse(text: &str) -> Result<Parsed, String> {
    let allowed = "must be http://, https://, file:///folder or s3://bucket/prefix";
    let url = url::Url::parse(text).map_err(|error| format!("`{text}` is no URL ({error}); it {allowed}"))?;
    match url.scheme() {
        "http" | "https" => {
            let uri: Uri = text.parse().map_err(|error| format!("`{text}` is no URL ({error})"))?;
            if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
                return Err(format!("`{text}` has more than scheme, host, port and path"));
            }
            let (Some(scheme), Some(authority)) = (uri.scheme().cloned(), uri.authority().cloned()) else {
                return Err(format!("`{text}` names no host"));
            };
            Ok(Parsed::Http(scheme, authority, uri.path().trim_end_matches('/').to_owned()))
        }
        "file" => match url.to_file_path() {
            Ok(folder) => Ok(Parsed::Files(folder)),
            Err(()) => Err(format!("`{text}` is no absolute folder; write file:///folder")),
        },
        "s3" if url.has_host() => Ok(Parsed::S3(text.to_owned())),
        _ => Err(format!("`{text}` {allowed}")),
    }
}

/// Makes the node's HTTP client.
pub fn client(config: &CacheConfig) -> HttpClient {
    skerry_core::tls::install_provider();
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(Duration::from_secs(config.connect_timeout_seconds)));
    let tls = HttpsConnectorBuilder::new()
        .with_native_roots()
        .unwrap_or_else(|error| {
            log::warn!("no certificate authorities were found, https:// origins will fail: {error}");
            HttpsConnectorBuilder::new().with_tls_config(
                rustls::ClientConfig::builder()
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth(),
            )
        })
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(connector);
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http1_max_headers(MAX_FIELDS)
        .http1_max_buf_size(MAX_HEAD_BYTES)
        .http2_max_header_list_size(MAX_HEAD_BYTES as u32)
        .build(tls)
}

impl Origin {
    /// The origin that a site names.
    pub fn new(config: &str, settings: &CacheConfig, client: &HttpClient) -> Result<Self, String> {
        let fresh_seconds = settings.file_fresh_seconds;
        let url = config.to_owned();
        Ok(match parse(config)? {
            Parsed::Http(scheme, authority, prefix) => {
                Self::Http { scheme, authority, prefix, client: Box::new(client.clone()) }
            }
            Parsed::Files(folder) => {
                let folder = folder
                    .canonicalize()
                    .map_err(|error| format!("the folder {} cannot be used: {error}", folder.display()))?;
                let store = LocalFileSystem::new_with_prefix(&folder).map_err(|error| error.to_string())?;
                Self::Objects { store: Arc::new(store), folder: Some(folder), url, fresh_seconds }
            }
            Parsed::S3(s3) => {
                let store = bucket(&s3, settings).map_err(|error| error.to_string())?;
                let prefix = s3.trim_start_matches("s3://").split_once('/').map_or("", |(_, prefix)| prefix);
                let prefix = percent_encoding::percent_decode_str(prefix.trim_matches('/')).decode_utf8();
                let prefix = prefix.map_err(|_| format!("the prefix of `{s3}` is not UTF-8"))?;
                let store: Arc<dyn ObjectStore> = if prefix.is_empty() {
                    Arc::new(store)
                } else {
                    let prefix = object_store::path::Path::parse(prefix.as_ref())
                        .map_err(|error| error.to_string())?;
                    Arc::new(object_store::prefix::PrefixStore::new(store, prefix))
                };
                Self::Objects { store, folder: None, url, fresh_seconds }
            }
        })
    }

    /// Its authority, for what compares URLs with it; empty for folders and buckets.
    pub fn authority(&self) -> &str {
        match self {
            Self::Http { authority, .. } => authority.as_str(),
            Self::Objects { .. } => "",
        }
    }

    /// One exchange. `target` is path and query; `headers` go as they are, but for `Host`.
    pub async fn send(
        &self,
        method: Method,
        target: &str,
        mut headers: HeaderMap,
        body: Body,
        interim: Option<Interim>,
    ) -> Result<Response<Body>, FetchError> {
        match self {
            Self::Http { scheme, authority, prefix, client } => {
                let path = if prefix.is_empty() { target.to_owned() } else { format!("{prefix}{target}") };
                let path: PathAndQuery =
                    path.parse().map_err(|_| FetchError::Unreachable("bad target".into()))?;
                let mut parts = http::uri::Parts::default();
                parts.scheme = Some(scheme.clone());
                parts.authority = Some(authority.clone());
                parts.path_and_query = Some(path);
                let uri =
                    Uri::from_parts(parts).map_err(|error| FetchError::Unreachable(error.to_string()))?;
                headers.remove(header::HOST);
                if matches!(body, Body::Empty) {
                    // A length without its bytes would take them from the next request.
                    headers.remove(header::CONTENT_LENGTH);
                    headers.remove(header::EXPECT);
                }
                let mut request = Request::new(body);
                *request.method_mut() = method;
                *request.uri_mut() = uri;
                *request.headers_mut() = headers;
                if let Some(interim) = interim {
                    relay_interim(&mut request, interim);
                }
                // A connection of the pool may be closed while the request is on its way.
                let again = again(&request);
                let response = match (client.request(request).await, again) {
                    (Err(error), Some(again)) if is_cut(&error) => client.request(again).await,
                    (result, _) => result,
                };
                let response = response.map_err(|error| FetchError::Unreachable(chain(&error)))?;
                if response.status().is_informational() {
                    // A change of protocol that nobody asked for.
                    return Err(FetchError::Unreachable(format!("answered {}", response.status())));
                }
                Ok(response.map(Body::stream))
            }
            Self::Objects { store, folder, fresh_seconds, .. } => {
                objects(store, folder.as_deref(), *fresh_seconds, &method, target, &headers).await
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { scheme, authority, prefix, .. } => {
                write!(formatter, "{scheme}://{authority}{prefix}")
            }
            Self::Objects { url, .. } => formatter.write_str(url),
        }
    }
}

/// The same request once more, where that is safe: no client notices, and no content is lost
/// (RFC 9110 §9.2.2).
fn again(request: &Request<Body>) -> Option<Request<Body>> {
    if !request.method().is_safe() || !matches!(request.body(), Body::Empty) {
        return None;
    }
    let mut again = Request::new(Body::Empty);
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    *again.extensions_mut() = request.extensions().clone();
    Some(again)
}

/// Passes 1xx answers on to the client that waits (RFC 9110 §15.2).
fn relay_interim(request: &mut Request<Body>, interim: Interim) {
    hyper::ext::on_informational(request, move |answer| {
        let mut headers = answer.headers().clone();
        strip_hop_by_hop(&mut headers);
        interim.send(answer.status(), headers);
    });
}

/// Whether a connection ended before any answer: RFC 9112 §9.3.1 expects a client to ask again.
fn is_cut(error: &hyper_util::client::legacy::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_incomplete_message()) {
            return true;
        }
        let reset = |error: &std::io::Error| {
            matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
        };
        if !error.is_connect() && inner.downcast_ref().is_some_and(reset) {
            return true;
        }
        cause = inner.source();
    }
    false
}

/// A bucket; keys, region and endpoint come from the `AWS_*` variables of the environment.
fn bucket(url: &str, settings: &CacheConfig) -> object_store::Result<AmazonS3> {
    let client = |key, seconds: u64| (AmazonS3ConfigKey::Client(key), format!("{seconds} seconds"));
    let limits = [
        client(ClientConfigKey::ConnectTimeout, settings.connect_timeout_seconds),
        client(ClientConfigKey::ReadTimeout, settings.read_timeout_seconds),
        // Of a whole answer, its body included, which may be hours of a slow client: the cache bounds
        // each wait instead.
        client(ClientConfigKey::Timeout, 86_400),
    ];
    let retries = RetryConfig {
        max_retries: 1,
        retry_timeout: Duration::from_secs(settings.response_timeout_seconds),
        ..RetryConfig::default()
    };
    let builder = AmazonS3Builder::from_env().with_url(url).with_retry(retries);
    limits.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value)).build()
}

/// What an error of a folder or bucket is to a client; the log gets all of it.
fn unreadable(error: &object_store::Error) -> FetchError {
    use object_store::Error::{PermissionDenied, Precondition, Unauthenticated};
    match error {
        Precondition { .. } => FetchError::Changed,
        PermissionDenied { .. } | Unauthenticated { .. } => {
            log::debug!("a folder or bucket refuses: {error}");
            FetchError::Unreachable("it refuses the node's credentials (403 Forbidden)".into())
        }
        error => {
            log::debug!("a folder or bucket fails: {error}");
            FetchError::Unreachable("the folder or bucket does not answer; the log says more".into())
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Answers from a folder or bucket as an HTTP origin would.
async fn objects(
    store: &Arc<dyn ObjectStore>,
    folder: Option<&Path>,
    fresh_seconds: u64,
    method: &Method,
    target: &str,
    request: &HeaderMap,
) -> Result<Response<Body>, FetchError> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let Some(path) = object_path(target) else { return Ok(plain(StatusCode::BAD_REQUEST)) };
    if let Some(folder) = folder
        && !is_inside(folder, path.as_ref()).await
    {
        return Ok(plain(StatusCode::NOT_FOUND));
    }
    let options = GetOptions { head: true, ..GetOptions::default() };
    let meta = match store.get_opts(&path, options).await {
        Ok(found) => found.meta,
        Err(object_store::Error::NotFound { .. }) => return Ok(plain(StatusCode::NOT_FOUND)),
        Err(error) => return Err(unreadable(&error)),
    };
    let mut headers = HeaderMap::new();
    let modified = SystemTime::from(meta.last_modified);
    headers.insert(header::LAST_MODIFIED, text(&httpdate::fmt_http_date(modified)));
    if let Some(tag) = &meta.e_tag {
        let quoted =
            if tag.starts_with('"') || tag.starts_with("W/") { tag.clone() } else { format!("\"{tag}\"") };
        headers.insert(header::ETAG, text(&quoted));
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, text(&format!("max-age={fresh_seconds}")));
    let media_type = mime_guess::from_path(path.as_ref()).first_or_octet_stream();
    headers.insert(header::CONTENT_TYPE, text(media_type.essence_str()));
    let not_modified =
        request.get(header::IF_NONE_MATCH).is_some_and(|tags| Some(tags) == headers.get(header::ETAG));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    headers.insert(header::DATE, crate::rfc::date::format(now));
    if not_modified {
        return Ok(answer(StatusCode::NOT_MODIFIED, headers, Body::Empty));
    }
    let whole = 0..meta.size;
    let (status, range) = match resolve(request, meta.size) {
        RangeSet::One(range) if if_range(request, &headers) => (StatusCode::PARTIAL_CONTENT, range),
        RangeSet::Unsatisfiable => {
            headers.insert(header::CONTENT_RANGE, ContentRange::Unsatisfied { total: meta.size }.to_value());
            return Ok(answer(StatusCode::RANGE_NOT_SATISFIABLE, headers, Body::Empty));
        }
        _ => (StatusCode::OK, whole),
    };
    if status == StatusCode::PARTIAL_CONTENT {
        let value = ContentRange::Bytes { range: range.clone(), total: Some(meta.size) }.to_value();
        headers.insert(header::CONTENT_RANGE, value);
    }
    headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
    let body = if *method == Method::HEAD || range.is_empty() {
        Body::Empty
    } else {
        // Servers exist that ignore ranges: a whole is asked for as such.
        let range = (status == StatusCode::PARTIAL_CONTENT).then_some(range);
        read(store, &path, range, meta.e_tag).await?
    };
    Ok(answer(status, headers, body))
}

async fn read(
    store: &Arc<dyn ObjectStore>,
    path: &object_store::path::Path,
    range: Option<Range<u64>>,
    tag: Option<String>,
) -> Result<Body, FetchError> {
    let range = range.map(GetRange::Bounded);
    let options = GetOptions { range, if_match: tag, ..GetOptions::default() };
    let result = store.get_opts(path, options).await.map_err(|error| unreadable(&error))?;
    let stream = result.into_stream().map(|piece| piece.map(Frame::data).map_err(BodyError::from));
    Ok(Body::stream(StreamBody::new(stream)))
}

fn if_range(request: &HeaderMap, headers: &HeaderMap) -> bool {
    request.get(header::IF_RANGE).is_none_or(|value| {
        crate::rfc::range::if_range_matches(
            value,
            headers.get(header::ETAG),
            headers.get(header::LAST_MODIFIED),
            headers.get(header::DATE),
        )
    })
}

/// The object's path, or `None` when the target is no clean path: dots that climb, empty or odd
/// segments, bytes that are not UTF-8, NUL, back slashes; encoded or not.
fn object_path(target: &str) -> Option<object_store::path::Path> {
    let raw = target.split(['?', '#']).next().unwrap_or_default();
    let decoded = percent_encoding::percent_decode_str(raw).decode_utf8().ok()?;
    let clean = decoded.strip_prefix('/')?;
    let odd = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
    if clean.split('/').any(odd) || clean.contains(['\\', '\0']) || clean.chars().any(char::is_control) {
        return None;
    }
    object_store::path::Path::parse(clean).ok()
}

/// Whether a path, its links followed, is still in the folder.
async fn is_inside(folder: &Path, path: &str) -> bool {
    let folder = folder.to_owned();
    let path = folder.join(path);
    let inside = move || path.canonicalize().is_ok_and(|real| real.starts_with(&folder) && real.is_file());
    tokio::task::spawn_blocking(inside).await.unwrap_or(false)
}

fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response =
        skerry_core::problem::response(status, "the origin's folder or bucket has no such object");
    response.headers_mut().remove(header::CACHE_CONTROL);
    response
}

fn answer(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_climb_are_no_paths() {
        for bad in
            ["/../x", "/a/%2e%2e/x", "/..%2fx", "/%5c..%5cx", "/a%00b", "/a//b", "/%ff", "", "x", "/./a"]
        {
            assert!(object_path(bad).is_none(), "{bad}");
        }
        assert_eq!(object_path("/a/b%20c.txt?x=/../").unwrap().as_ref(), "a/b c.txt");
    }

    #[test]
    fn origins_are_told_apart_and_bad_ones_explained() {
        assert!(matches!(parse("http://a:1/b/"), Ok(Parsed::Http(_, _, prefix)) if prefix == "/b"));
        assert!(matches!(parse("file:///srv/x"), Ok(Parsed::Files(path)) if path == Path::new("/srv/x")));
        assert!(matches!(parse("s3://bucket/prefix"), Ok(Parsed::S3(_))));
        for bad in ["ftp://a", "nonsense", "http://", "http://a/?q"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
