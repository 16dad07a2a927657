//! What a client's request must be before anything is done with it (RFC 9110 §7, RFC 9112 §3).

use http::uri::Authority;
use http::{HeaderMap, Request, Version, header};

/// The authority a request is for: the absolute form's wins over `Host` (RFC 9112 §3.2.2).
pub fn authority<B>(request: &Request<B>) -> Result<String, &'static str> {
    let mut hosts = request.headers().get_all(header::HOST).into_iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err("there is more than one Host field"),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| "the Host field is no host name")?;
            Some(checked(text)?)
        }
        (None, None) => None,
    };
    if let Some(authority) = request.uri().authority() {
        return checked(authority.as_str());
    }
    match host {
        Some(host) => Ok(host),
        None if request.version() == Version::HTTP_11 => Err("the Host field is missing"),
        None => Ok(String::new()),
    }
}

/// A host name as nearly all are, for which no parser is needed: letters, digits, dots and dashes,
/// and a port.
pub fn is_plain(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    !name.is_empty() && name.bytes().all(plain) && digits && (port.len() < 5 || port <= "65535")
}

fn checked(text: &str) -> Result<String, &'static str> {
    const BAD: &str = "the host is no host name with an optional port";
    if is_plain(text) {
        return Ok(text.to_owned());
    }
    let authority: Authority = text.parse().map_err(|_| BAD)?;
    let port = text.strip_prefix(authority.host()).ok_or(BAD)?;
    let port_is_number = port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    if authority.host().is_empty() || !(port.is_empty() || port_is_number) {
        return Err(BAD);
    }
    Ok(text.to_owned())
}

/// Whether a request says how long its body is in two ways, which is how requests are smuggled
/// (RFC 9112 §6.1).
pub fn is_ambiguous(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) && headers.contains_key(header::TRANSFER_ENCODING)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uri: &str, hosts: &[&str]) -> Result<String, &'static str> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        authority(&request.body(()).unwrap())
    }

    #[test]
    fn one_good_host_or_an_absolute_form() {
        assert_eq!(of("/", &["edge.test:8080"]), Ok("edge.test:8080".into()));
        assert_eq!(of("/", &["[::1]:80"]), Ok("[::1]:80".into()));
        assert_eq!(of("http://a.test/", &["b.test"]), Ok("a.test".into()));
        for bad in [&["a", "b"][..], &[], &[""], &["user@host"], &["a:b"], &["a b"], &["a:99999"]] {
            assert!(of("/", bad).is_err(), "{bad:?}");
        }
    }
}
