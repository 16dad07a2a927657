//! Purge by address, prefix and tag, soft and hard, by the command and by the admin listener. What
//! was acknowledged stays purged.

use serde_json::{Value, json};
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::raw;
use skerry_tests::reply::Reply;

/// The address under which an object of these scenarios is known.
fn address(path: &str) -> String {
    format!("http://{}{path}", raw::HOST)
}

/// An origin that counts its versions of everything and validates all of it.
fn origin() -> Origin {
    let origin = Origin::start();
    origin.serve_rest(|request| {
        let reply = Reply::ok(format!("{} {}", request.path(), request.number));
        let reply = reply.etag(request.path()).validates().fresh();
        match request.path() {
            "/red" => reply.header("Surrogate-Key", "red all"),
            "/blue" => reply.header("Surrogate-Key", "blue all"),
            "/group" => reply.header("Cache-Groups", "\"red\", \"with space\""),
            _ => reply,
        }
    });
    origin
}

fn store(node: &Node, paths: &[&str]) {
    for path in paths {
        node.get(path);
        node.hit(path);
    }
}

fn purge(node: &Node, what: &Value) {
    let answer = node.admin_post("/purge", what);
    assert_eq!(answer.status / 100, 2, "{what}: {}", answer.text());
}

#[test]
fn one_address_is_purged_by_the_command() {
    let origin = origin();
    let node = Node::in_front_of(&origin).start();
    store(&node, &["/a", "/b"]);

    let url = address("/a");
    let output = node.command(&["purge", "--url", &url]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!node.get("/a").is_hit());
    assert!(node.get("/b").is_hit());
    assert_eq!((origin.count("/a"), origin.count("/b")), (2, 1));
}

#[test]
fn every_variant_of_an_address_is_purged() {
    let origin = Origin::start();
    origin.serve("/v", |request| {
        let language = request.header("accept-language").unwrap_or_default().to_owned();
        Reply::ok(language).header("Vary", "Accept-Language").fresh()
    });
    let node = Node::in_front_of(&origin).start();
    let languages = [[("Accept-Language", "de")], [("Accept-Language", "en")]];
    for language in &languages {
        node.get_with("/v", language);
        node.hit_with("/v", language);
    }
    purge(&node, &json!({"url": address("/v")}));
    for language in &languages {
        assert!(!node.get_with("/v", language).is_hit());
    }
}

#[test]
fn a_prefix_is_purged() {
    let origin = origin();
    let node = Node::in_front_of(&origin).start();
    store(&node, &["/dir/a", "/dir/deep/b", "/direct", "/other"]);

    let prefix = address("/dir/");
    let output = node.command(&["purge", "--prefix", &prefix]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!node.get("/dir/a").is_hit());
    assert!(!node.get("/dir/deep/b").is_hit());
    assert!(node.get("/direct").is_hit());
    assert!(node.get("/other").is_hit());
    // What is stored after the purge is not touched by it.
    node.hit("/dir/a");
}

#[test]
fn a_tag_is_purged_wherever_it_was_named() {
    let origin = origin();
    let node = Node::in_front_of(&origin).start();
    store(&node, &["/red", "/blue", "/group", "/none"]);

    let output = node.command(&["purge", "--tag", "red"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!node.get("/red").is_hit(), "named by Surrogate-Key");
    assert!(!node.get("/group").is_hit(), "named by Cache-Groups (RFC 9875)");
    assert!(node.get("/blue").is_hit());
    assert!(node.get("/none").is_hit());

    store(&node, &["/red", "/group"]);
    purge(&node, &json!({"tag": "all"}));
    assert!(!node.get("/red").is_hit());
    assert!(!node.get("/blue").is_hit());
    assert!(node.get("/group").is_hit());
    purge(&node, &json!({"tag": "with space"}));
    assert!(!node.get("/group").is_hit());
}

#[test]
fn after_a_soft_purge_the_object_is_validated() {
    let origin = origin();
    let node = Node::in_front_of(&origin).start();
    store(&node, &["/a"]);

    let url = address("/a");
    let output = node.command(&["purge", "--soft", "--url", &url]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let answer = node.get("/a");
    assert_eq!((answer.status, answer.text().as_str()), (200, "/a 0"));
    assert_eq!(answer.cache_status_value("fwd").as_deref(), Some("stale"));
    assert_eq!(answer.cache_status_value("fwd-status").as_deref(), Some("304"));
    let requests = origin.requests_for("/a");
    assert_eq!(requests[1].header("if-none-match"), Some("\"/a\""));
    // And then it is fresh again.
    node.hit("/a");
    assert_eq!(origin.count("/a"), 2);
}

#[test]
fn a_soft_purge_of_a_tag_keeps_what_may_be_served_stale() {
    let mut origin = Origin::start();
    let reply = Reply::ok("content").cache_control("max-age=3600, stale-if-error=3600");
    origin.reply("/a", reply.header("Surrogate-Key", "red"));
    let node = Node::in_front_of(&origin).start();
    store(&node, &["/a"]);
    purge(&node, &json!({"tag": "red", "soft": true}));
    origin.stop();
    let answer = node.get("/a");
    assert_eq!((answer.status, answer.text().as_str()), (200, "content"));
}

#[test]
fn after_a_hard_purge_nothing_is_left_to_validate_or_to_serve() {
    let mut origin = origin();
    let node = Node::in_front_of(&origin).set("cache", "stale_if_error_seconds", 3600).start();
    store(&node, &["/a", "/b"]);
    purge(&node, &json!({"url": address("/a")}));
    purge(&node, &json!({"url": address("/b")}));

    assert_eq!(node.get("/a").text(), "/a 1");
    assert_eq!(origin.requests_for("/a")[1].header("if-none-match"), None);
    origin.stop();
    node.get("/b").problem(502);
}

#[test]
fn a_purge_survives_a_restart() {
    let origin = origin();
    let mut node = Node::in_front_of(&origin).start();
    let purged = ["/url", "/dir/a", "/red"];
    store(&node, &purged);
    store(&node, &["/kept"]);
    purge(&node, &json!({"url": address("/url")}));
    purge(&node, &json!({"prefix": address("/dir/")}));
    purge(&node, &json!({"tag": "red"}));
    // Under the same prefix, but later than the purge.
    store(&node, &["/dir/later"]);

    node.restart();
    assert!(node.get("/kept").is_hit());
    assert!(node.get("/dir/later").is_hit());
    for path in purged {
        assert!(!node.get(path).is_hit(), "{path} is back after the restart");
        assert_eq!(origin.count(path), 2);
    }
}

#[test]
fn an_acknowledged_purge_survives_a_crash() {
    let origin = origin();
    let mut node = Node::in_front_of(&origin).start();
    let paths = ["/url", "/dir/a", "/red"];
    store(&node, &paths);
    // Everything is on disk before the purge, so that a lost purge would show.
    node.restart();
    for path in paths {
        assert!(node.get(path).is_hit());
    }
    purge(&node, &json!({"url": address("/url")}));
    purge(&node, &json!({"prefix": address("/dir/")}));
    purge(&node, &json!({"tag": "red"}));
    node.kill();
    node.start();
    for path in paths {
        assert!(!node.get(path).is_hit(), "{path} is back after the crash");
    }
}

#[test]
fn a_purge_that_names_nothing_is_refused() {
    let origin = origin();
    let node = Node::in_front_of(&origin).start();
    for body in [json!({}), json!({"path": "/a"}), json!([1]), json!({"url": 5})] {
        let answer = node.admin_post("/purge", &body);
        answer.problem(400);
    }
    let both = node.command(&["purge", "--tag", "a", "--url", "http://edge.test/"]);
    assert_eq!(both.status.code(), Some(2));
    let neither = node.command(&["purge"]);
    assert_eq!(neither.status.code(), Some(2));
}

#[test]
fn a_purge_without_the_token_is_refused() {
    let origin = origin();
    let node = Node::in_front_of(&origin).token("correct-horse").start();
    store(&node, &["/a"]);
    let body = json!({"url": address("/a")}).to_string();

    for bearer in [None, Some("Bearer wrong"), Some("Bearer correct-hors")] {
        let mut fields = vec![("Content-Type", "application/json")];
        fields.extend(bearer.map(|bearer| ("Authorization", bearer)));
        let answer = raw::fetch(node.admin(), "POST", "/purge", &fields, body.as_bytes());
        answer.expect("an answer").problem(401);
    }
    assert!(node.get("/a").is_hit());
    purge(&node, &json!({"url": address("/a")}));
    assert!(!node.get("/a").is_hit());
}

#[test]
fn a_purge_of_a_node_that_is_not_there_fails() {
    let origin = origin();
    let mut node = Node::in_front_of(&origin).start();
    node.stop();
    let output = node.command(&["purge", "--tag", "red"]);
    assert_eq!(output.status.code(), Some(1));
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(problem.contains(&node.admin().to_string()), "{problem}");
}
