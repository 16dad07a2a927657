//! A `file://` origin serves what is below its folder, and nothing else however it is asked for.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use skerry_tests::content;
use skerry_tests::node::Node;
use skerry_tests::raw;
use tempfile::TempDir;

const SECRET: &str = "nobody may read this";

/// A folder with a site in it, a secret beside the site, and links from inside to the secret.
fn site() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let site = folder.path().join("site");
    fs::create_dir_all(site.join("sub")).expect("the site");
    fs::write(site.join("index.html"), "<h1>index</h1>").expect("a file");
    fs::write(site.join("with space.txt"), "spaced").expect("a file");
    fs::write(site.join("sub/page.html"), "<h1>page</h1>").expect("a file");
    fs::write(site.join("film.bin"), content::bytes(81, 0, 2_500_000)).expect("a file");
    fs::write(folder.path().join("secret.txt"), SECRET).expect("a secret");
    symlink("../secret.txt", site.join("link.txt")).expect("a link to a file");
    symlink("..", site.join("up")).expect("a link to a folder");
    symlink("/etc", site.join("etc")).expect("a link to somewhere else");
    folder
}

fn node(folder: &TempDir) -> Node {
    Node::with_origin(&format!("file://{}/site", folder.path().display())).start()
}

#[test]
fn files_are_served_with_type_length_and_validators() {
    let folder = site();
    let node = node(&folder);
    let page = node.get("/sub/page.html");
    assert_eq!((page.status, page.text().as_str()), (200, "<h1>page</h1>"));
    assert!(page.header("content-type").is_some_and(|media| media.starts_with("text/html")));
    assert!(page.header("last-modified").is_some());
    assert_eq!(node.get("/with%20space.txt").text(), "spaced");
    node.get("/missing.html").problem(404);

    let film = node.get("/film.bin");
    content::assert_same("a file", &film.body, &content::bytes(81, 0, 2_500_000));
    let tag = film.header("etag").expect("an entity tag").to_owned();
    let part = node.get_with("/film.bin", &[("Range", "bytes=2000000-2000099")]);
    assert_eq!(part.status, 206);
    content::assert_same("a part", &part.body, &content::bytes(81, 2_000_000, 100));
    assert_eq!(node.get_with("/film.bin", &[("If-None-Match", tag.as_str())]).status, 304);
    let head = node.fetch("HEAD", "/film.bin", &[], b"").expect("an answer");
    assert_eq!(head.number("content-length"), Some(2_500_000));
}

#[test]
fn a_file_that_was_changed_is_noticed() {
    let folder = site();
    let node = node(&folder);
    let path = folder.path().join("site/index.html");
    assert_eq!(node.get("/index.html").text(), "<h1>index</h1>");
    fs::write(path, "<h1>another, longer index</h1>").expect("a file");
    let fresh = node.get_with("/index.html", &[("Cache-Control", "no-cache")]);
    assert_eq!(fresh.text(), "<h1>another, longer index</h1>");
}

#[test]
fn nothing_outside_the_folder_is_served() {
    let folder = site();
    let node = node(&folder);
    let targets = [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/./../secret.txt",
        "//../secret.txt",
        "/%2e%2e/secret.txt",
        "/%2E%2E/secret.txt",
        "/.%2e/secret.txt",
        "/%2e./secret.txt",
        "/..%2fsecret.txt",
        "/..%2Fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/sub/%2e%2e/%2e%2e/secret.txt",
        "/sub%2f..%2f..%2fsecret.txt",
        "/..\\secret.txt",
        "/..%5csecret.txt",
        "/%2e%2e%5csecret.txt",
        "/%252e%252e/secret.txt",
        "/%252e%252e%252fsecret.txt",
        "/%c0%ae%c0%ae/secret.txt",
        "/..;/secret.txt",
        "/index.html%00.txt",
        "/..%00/secret.txt",
        "/link.txt",
        "/up/secret.txt",
        "/etc/hostname",
        "/etc/passwd",
        "http://edge.test/../secret.txt",
        "http://edge.test/%2e%2e/secret.txt",
    ];
    for target in targets {
        let Ok(answer) = raw::fetch(node.public(), "GET", target, &[], b"") else {
            continue; // Closed without an answer is safe.
        };
        assert!(matches!(answer.status, 400 | 403 | 404), "{target} was answered {}", answer.status);
        assert!(!answer.text().contains(SECRET), "{target} gave the secret away");
    }
    let absolute = format!("/{}/secret.txt", folder.path().display());
    assert!(matches!(node.get(&absolute).status, 400 | 403 | 404));
    let bytes = b"GET /index.html\0 HTTP/1.1\r\nHost: edge.test\r\n\r\n";
    let answer = raw::exchange(node.public(), bytes);
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 400));
    assert_eq!(node.get("/index.html").status, 200);
}

#[test]
fn a_file_origin_is_only_read() {
    let folder = site();
    let node = node(&folder);
    for method in ["PUT", "POST", "DELETE", "PATCH"] {
        let answer = node.fetch(method, "/index.html", &[], b"changed").expect("an answer");
        answer.problem(405);
        let allowed = answer.list("allow");
        assert!(allowed.contains("GET") && allowed.contains("HEAD"), "{method}: Allow: {allowed}");
    }
    let file = fs::read_to_string(folder.path().join("site/index.html")).expect("a file");
    assert_eq!(file, "<h1>index</h1>");
    // Folders are no content, and a wait on them is no hang.
    let started = std::time::Instant::now();
    assert!(matches!(node.get("/sub").status, 301 | 302 | 307 | 308 | 403 | 404));
    assert!(started.elapsed() < Duration::from_secs(5));
}
