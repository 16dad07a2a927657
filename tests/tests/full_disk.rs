//! A full disk: serving goes on, fills pass through uncached, the log says so once, a metric
//! counts, and when there is room again the node recovers by itself.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use skerry_tests::content;
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::reply::Reply;
use skerry_tests::wait;
use tempfile::TempDir;

const DISK_BYTES: u64 = 512 << 20;
const OBJECT_BYTES: usize = 1 << 20;

/// A small ext4 file system in a file, mounted through a loop device as long as this lives.
struct SmallDisk {
    folder: TempDir,
    mounted: bool,
}

impl SmallDisk {
    fn mount() -> Self {
        let user = Command::new("id").arg("-u").output().expect("id of coreutils runs");
        let user = String::from_utf8_lossy(&user.stdout).trim().to_owned();
        assert_eq!(user, "0", "a full disk is made by mounting a loop device, which needs root");
        let folder = tempfile::tempdir().expect("a folder for the disk");
        let mut disk = Self { folder, mounted: false };
        let (image, point) = (disk.image(), disk.path());
        fs::create_dir(&point).expect("a mount point");
        let size = DISK_BYTES.to_string();
        run("fallocate", &["--length", &size, &text(&image)]);
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &text(&image)]);
        run("mount", &["-o", "loop", &text(&image), &text(&point)]);
        disk.mounted = true;
        disk
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).expect("the ballast is created");
        let mut block = vec![0xA5u8; 1 << 20];
        while !block.is_empty() {
            // When a block no longer fits, smaller ones may.
            while ballast.write_all(&block).is_ok() {}
            block.truncate(block.len() / 2);
        }
        // A file system that has taken everything may find a little more when it writes back.
        let _ = ballast.sync_all();
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).expect("the ballast is removed");
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.mounted {
            let done = Command::new("umount").arg("--lazy").arg(self.path()).status();
            if !done.is_ok_and(|status| status.success()) {
                eprintln!("cannot unmount {}", self.path().display());
            }
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An origin with an object for every number, each of other content.
fn origin() -> Origin {
    let origin = Origin::start();
    origin.serve_rest(|request| {
        let number = number(request.path());
        Reply::generated(number, OBJECT_BYTES as u64).etag(&format!("o{number}")).fresh()
    });
    origin
}

fn number(path: &str) -> u64 {
    path.trim_start_matches("/o/").parse().unwrap_or(0)
}

/// Gets the object and panics unless every byte is right.
fn get_right(node: &Node, number: u64) {
    let answer = node.get(&format!("/o/{number}"));
    assert_eq!(answer.status, 200);
    assert!(answer.complete);
    content::assert_same("beside a full disk", &answer.body, &content::bytes(number, 0, OBJECT_BYTES));
}

fn write_failures(node: &Node) -> f64 {
    node.metric("skerry_store_write_failures_total", &[])
}

/// The lines that tell of the full disk.
fn complaints(node: &Node) -> Vec<String> {
    let mut lines = node.stderr();
    lines.retain(|line| {
        let line = line.to_ascii_lowercase();
        ["no space left", "disk is full", "disk full"].iter().any(|words| line.contains(words))
    });
    lines
}

#[test]
fn a_full_disk_stops_storing_and_not_serving() {
    let disk = SmallDisk::mount();
    let origin = origin();
    let mut node = Node::in_front_of(&origin)
        .data_dir(&disk.path().join("data"))
        .set("store", "memory_tier_bytes", 8 << 20)
        .set("store", "capacity_bytes", 4u64 << 30)
        .start();
    get_right(&node, 1);
    node.hit("/o/1");

    disk.fill();
    // What RocksDB still holds in memory does not notice; after that every fill passes through.
    let mut next = 100;
    wait::until("a write to fail", Duration::from_secs(60), || {
        get_right(&node, next);
        next += 1;
        write_failures(&node) > 0.0
    });
    for _ in 0..20 {
        get_right(&node, next);
        next += 1;
    }
    assert_eq!(node.admin_get("/healthz").status, 200);
    let complaints = complaints(&node);
    assert_eq!(complaints.len(), 1, "one clear line: {complaints:#?}");

    disk.free();
    let mut kept = 0;
    wait::until("new objects to be stored again", Duration::from_secs(90), || {
        // An answer ends before its last chunk is written: what counts is that one was.
        let written = |node: &Node| node.metric("skerry_store_written_bytes_total", &[]);
        let before = written(&node);
        kept = next;
        next += 1;
        get_right(&node, kept);
        get_right(&node, kept);
        origin.count(&format!("/o/{kept}")) == 1 && written(&node) > before
    });

    // Stored on disk and not only in memory: it is there after a restart.
    assert!(node.stop().success());
    node.start();
    let path = format!("/o/{kept}");
    let answer = node.get(&path);
    content::assert_same("after the restart", &answer.body, &content::bytes(kept, 0, OBJECT_BYTES));
    assert_eq!(origin.count(&path), 1, "{path} was not stored");
}
