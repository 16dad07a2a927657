//! What a node does with a store that a newer version wrote to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use skerry_tests::content;
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::reply::Reply;

/// Every file below a folder: its length, and when it was changed.
fn files(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let meta = path.metadata().expect("a file");
        if meta.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.insert(path, (meta.len(), meta.modified().expect("a time")));
        }
    }
    found
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_not_touched() {
    let body = content::bytes(31, 0, 700_000);
    let origin = Origin::start();
    origin.reply("/film", Reply::ok(body.clone()).fresh());
    let mut node = Node::in_front_of(&origin).start();
    content::assert_same("the first answer", &node.get("/film").body, &body);
    node.hit("/film");
    assert_eq!(node.stop().code(), Some(0));

    let format = node.data_dir().join("format");
    let ours = fs::read_to_string(&format).expect("the format of the store");
    let newer = ours.trim().parse::<u32>().expect("a number") + 1;
    fs::write(&format, format!("{newer}\n")).expect("the format is written");
    let stores = ["meta", "chunks"].map(|name| node.data_dir().join(name));
    let before = stores.each_ref().map(|folder| files(folder));
    let ended = node.run_to_end(&[]);
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr);
    for words in [
        format!("has format {newer}, and this version reads up to {}", ours.trim()),
        "run the version that wrote to it or a newer one".into(),
        node.data_dir().display().to_string(),
    ] {
        assert!(said.contains(&words), "not said: {words}\n{said}");
    }
    assert_eq!(stores.each_ref().map(|folder| files(folder)), before, "something was written");

    // Back with the version that wrote it, nothing was lost.
    fs::write(&format, ours).expect("the format is written");
    let asked = origin.count("/film");
    node.start();
    content::assert_same("what was held", &node.hit("/film").body, &body);
    assert_eq!(origin.count("/film"), asked);
}
