//! `skerry image`: what it puts into images and onto sticks is read by others' tools, and disks are erased
//! only by those who mean it.
//!
//! Images are made with sfdisk and mkfs.vfat; mtools and fsck.vfat look into them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use skerry_tests::process;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Where the EFI system partition of an image begins, and its length.
const ESP: (u64, u64) = (MIB, 64 * MIB);

struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("skerry-image-").tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).expect("the file is written");
        self.path(name)
    }

    /// An image with an EFI system partition and another one.
    fn image(&self, name: &str) -> String {
        let path = self.file(name, "");
        fs::File::options().write(true).open(&path).and_then(|file| file.set_len(96 * MIB)).expect("room");
        let table = "label: gpt\nstart=2048, size=131072, type=uefi, name=esp\ntype=linux, name=skerry_1\n";
        tool("sfdisk", &["--quiet", &path], table);
        tool(
            "mkfs.vfat",
            &["-F", "32", "-s", "1", "-n", "SKERRY-ESP", "--offset", "2048", &path, "65536"],
            "",
        );
        path
    }

    /// A stick that is one FAT volume.
    fn stick(&self, name: &str, label: &str) -> String {
        let path = self.path(name);
        tool("mkfs.vfat", &["-C", "-n", label, &path, "4096"], "");
        path
    }

    /// A file of the volume that begins there.
    fn content(&self, image: &str, start: u64, name: &str) -> String {
        let volume = format!("{image}@@{start}");
        tool("mcopy", &["-i", &volume, &format!("::{name}"), "-"], "")
    }
}

/// Runs a tool to its end, and gives what it prints.
#[track_caller]
fn tool(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        // The length of a volume within an image is no reason for a complaint.
        .env("MTOOLS_SKIP_CHECK", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} (fdisk, dosfstools, mtools): {error}"));
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{program} {arguments:?}: {}", complaint(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `skerry image`; gives what it prints on either channel.
#[track_caller]
fn image(code: i32, arguments: &[&str]) -> String {
    let output = process::run(&[&["image"][..], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &complaint(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

const SITE: &str = "[sites.default]\norigin = \"http://origin.example\"\n";

#[test]
fn a_configuration_goes_into_an_image() {
    let bench = Bench::new();
    let disk = bench.image("skerry.raw");
    let config = bench.file("fleet.toml", SITE);
    let network = bench.file("edge-7.toml", "[network]\nhostname = \"edge-7\"\n");
    let token = bench.file("token", "0123abcd\n");
    let common = ["provision", "--disk", &disk, "--config", &config, "--network", &network];
    let fleet = ["--token", &token, "--fleet-url", "https://control.example:8443"];

    let before = fs::read(&disk).expect("the image");
    let text = image(0, &[&common[..], &fleet, &["--dry-run"]].concat());
    assert!(text.contains("would write to partition 1 of") && text.contains("SKERRY-ESP"), "{text}");
    assert!(fs::read(&disk).expect("the image") == before, "a dry run wrote");

    image(0, &[&common[..], &fleet].concat());
    assert_eq!(
        bench.content(&disk, ESP.0, "skerry.toml"),
        format!("{SITE}[network]\nhostname = \"edge-7\"\n")
    );
    assert_eq!(bench.content(&disk, ESP.0, "skerry.token"), "0123abcd");
    assert_eq!(bench.content(&disk, ESP.0, "skerry.fleet-url"), "https://control.example:8443");

    // Once more, with less: what is written is replaced, and the rest of the image is what it was.
    let told: Value =
        serde_json::from_str(&image(0, &["provision", "--disk", &disk, "--config", &config, "--json"]))
            .expect("JSON");
    assert_eq!((&told["partition"], &told["esp"], &told["written"]), (&1.into(), &true.into(), &true.into()));
    assert_eq!(bench.content(&disk, ESP.0, "skerry.toml"), SITE);
    let after = fs::read(&disk).expect("the image");
    let (start, end) = (ESP.0 as usize, (ESP.0 + ESP.1) as usize);
    assert!(
        after[..start] == before[..start] && after[end..] == before[end..],
        "it wrote beyond the partition"
    );
    let volume = bench.file("esp", &after[start..end]);
    tool("fsck.vfat", &["-n", &volume], "");
}

#[test]
fn a_wrong_configuration_goes_nowhere() {
    let bench = Bench::new();
    let disk = bench.image("skerry.raw");
    let before = fs::read(&disk).expect("the image");
    let config = bench.file("skerry.toml", "[sites.default]\norigni = \"http://origin.example\"\n");
    let text = image(2, &["provision", "--disk", &disk, "--config", &config]);
    assert!(text.contains(&format!("{config}:2: ")) && text.contains("origin"), "{text}");
    image(2, &["provision", "--disk", &disk, "--config", &bench.path("nowhere.toml")]);
    image(2, &["provision", "--disk", &disk]);
    let config = bench.file("skerry.toml", SITE);
    image(1, &["provision", "--disk", &bench.path("nowhere.raw"), "--config", &config]);
    image(1, &["provision", "--disk", "/dev/null", "--config", &config]);
    image(1, &["provision", "--disk", &bench.path(""), "--config", &config]);
    assert!(fs::read(&disk).expect("the image") == before, "something was written");
}

#[test]
fn a_stick_is_known_by_its_label() {
    let bench = Bench::new();
    let config = bench.file("skerry.toml", SITE);
    let stick = bench.stick("stick", "HOLIDAY");
    let text = image(1, &["provision", "--disk", &stick, "--config", &config]);
    assert!(text.contains("`HOLIDAY`") && text.contains("fatlabel"), "{text}");
    tool("fatlabel", &[&stick, "SKERRY"], "");
    image(0, &["provision", "--disk", &stick, "--config", &config]);
    assert_eq!(bench.content(&stick, 0, "skerry.toml"), SITE);
    tool("fsck.vfat", &["-n", &stick], "");
    let text = image(1, &["provision", "--disk", &bench.file("zeros", vec![0; 4096]), "--config", &config]);
    assert!(text.contains("no FAT at all"), "{text}");
}

/// SHA-256 of a file, as coreutils has it.
fn sum(path: &str) -> String {
    tool("sha256sum", &[path], "").split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn an_image_is_written_read_back_and_checked() {
    let bench = Bench::new();
    let source = bench.image("skerry_1_x86-64.raw");
    let sum = sum(&source);
    let disk = bench.path("disk");
    let flash = ["flash", "--image", &source, "--disk", &disk, "--json"];
    let told: Value = serde_json::from_str(&image(0, &flash)).expect("JSON");
    assert_eq!((&told["verified"], &told["listed"]), (&true.into(), &false.into()));
    assert_eq!(told["sha256"], sum.as_str());
    assert!(fs::read(&disk).expect("the disk") == fs::read(&source).expect("the image"));

    bench.file("SHA256SUMS", format!("{sum} *skerry_1_x86-64.raw\n"));
    fs::remove_file(&disk).expect("the disk is there");
    let text = image(0, &["flash", "--image", &source, "--disk", &disk]);
    assert!(text.contains("written and read back") && text.contains("as SHA256SUMS says"), "{text}");

    let other = bench.path("other");
    bench.file("SHA256SUMS", format!("{} *skerry_1_x86-64.raw\n", "0".repeat(64)));
    let text = image(3, &["flash", "--image", &source, "--disk", &other]);
    assert!(text.contains("nothing was erased") && !Path::new(&other).exists(), "{text}");
    bench.file("SHA256SUMS", "");
    image(1, &["flash", "--image", &source, "--disk", &other]);
}

#[test]
fn nothing_is_erased_by_mistake() {
    let bench = Bench::new();
    let source = bench.image("skerry_1_x86-64.raw");
    let disk = bench.file("disk", "precious");
    let flash = ["flash", "--image", &source, "--disk", &disk];
    let text = image(2, &flash);
    assert!(text.contains("--yes-erase"), "{text}");
    for word in ["yes", "", "/dev/sda"] {
        let text = image(1, &[&flash[..], &["--yes-erase", word]].concat());
        assert!(text.contains("nothing was erased"), "{text}");
    }
    assert_eq!(fs::read(&disk).expect("the disk"), b"precious");
    image(0, &[&flash[..], &["--yes-erase", &disk]].concat());
    assert!(fs::read(&disk).expect("the disk") == fs::read(&source).expect("the image"));

    // The image itself, what is no disk, and what is no image.
    let text = image(1, &["flash", "--image", &source, "--disk", &source, "--yes-erase", &source]);
    assert!(text.contains("is the image itself"), "{text}");
    image(1, &["flash", "--image", &source, "--disk", "/dev/null"]);
    let empty = bench.file("empty.raw", vec![0; 4096]);
    assert!(image(1, &["flash", "--image", &empty, "--disk", &bench.path("new")]).contains("no image"));
    let packed = bench.file("skerry.raw.zst", b"\x28\xb5\x2f\xfd and more");
    assert!(image(1, &["flash", "--image", &packed, "--disk", &bench.path("new")]).contains("zstd -d"));
    assert!(!PathBuf::from(bench.path("new")).exists());
    let text = image(2, &["flash", "--image", &source]);
    assert!(text.contains("SERIAL"), "{text}");
}
