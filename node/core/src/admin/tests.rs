use std::net::SocketAddr;

use super::*;

fn admin(token: Option<&str>) -> Admin {
    Admin {
        identity: serde_json::json!({}),
        registry: Registry::new(),
        roles: Vec::new(),
        lifecycle: Lifecycle::default(),
        drain: Duration::ZERO,
        token: token.map(str::to_owned),
        remote: None,
    }
}

fn connection(secure: bool) -> Arc<Connection> {
    Arc::new(Connection::new(SocketAddr::from(([127, 0, 0, 1], 1)), secure, Arc::default()))
}

async fn status(admin: Admin, secure: bool, method: &str, path: &str, fields: &[(&str, &str)]) -> u16 {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::Empty).unwrap();
    Arc::new(admin).handle(request, connection(secure)).await.status().as_u16()
}

#[tokio::test]
async fn a_token_is_asked_for_in_the_clear() {
    assert_eq!(status(admin(None), false, "GET", "/healthz", &[]).await, 200);
    for (given, wanted) in [("Bearer right", 200), ("Bearer wrong", 401), ("right", 401), ("", 401)] {
        let told = status(admin(Some("right")), false, "GET", "/healthz", &[("authorization", given)]).await;
        assert_eq!(told, wanted, "{given}");
    }
    assert_eq!(status(admin(Some("right")), false, "POST", "/drain", &[]).await, 401);
}

#[tokio::test]
async fn over_tls_a_token_is_no_certificate() {
    assert_eq!(status(admin(None), true, "GET", "/healthz", &[]).await, 403);
    let fields = [("authorization", "Bearer right")];
    assert_eq!(status(admin(Some("right")), true, "GET", "/healthz", &fields).await, 403);
}

#[tokio::test]
async fn pages_of_other_sites_change_nothing() {
    for (site, wanted) in [("cross-site", 403), ("same-site", 403), ("same-origin", 202), ("none", 202)] {
        let fields = [("sec-fetch-site", site)];
        assert_eq!(status(admin(None), false, "POST", "/drain", &fields).await, wanted, "{site}");
        assert_eq!(status(admin(None), false, "GET", "/healthz", &fields).await, 200, "{site}");
    }
}
