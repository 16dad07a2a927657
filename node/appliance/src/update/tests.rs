//! Updates of a box whose systemd-sysupdate is a script.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::disk::tests::add;
use crate::fat;
use crate::fat::Volume;

/// Has the version in the file `offered`; installing one leaves its kernel image on the ESP.
const SYSUPDATE: &str = r#"#!/bin/sh
root=$(cd "${0%/*}/../../.." && pwd)
case "$*" in
"--json=short check-new")
    if [ -e "$root/offered" ]; then version="\"$(cat "$root/offered")\""; else version=null; fi
    echo "{\"available\":$version}" ;;
"update "*)
    grep -h ^Path= "$root"/run/sysupdate.d/20-root.transfer.d/* >>"$root/from"
    ls "$root/var/lib/skerry-box/update/stick" >"$root/copied" 2>/dev/null
    [ ! -e "$root/broken" ] || { echo "Failed to pull: No space left on device" >&2; exit 1; }
    touch "$root/efi/EFI/Linux/skerry_$2+3.efi" ;;
esac
"#;

/// Believes the signature `signature`.
const GPG: &str =
    "#!/bin/sh\nfor last; do signature=$list; list=$last; done\ngrep -qx signature \"$signature\"\n";

struct Machine {
    _root: tempfile::TempDir,
    layout: Layout,
}

impl Machine {
    fn new(update: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path().canonicalize().unwrap());
        for folder in [
            "etc/skerry",
            "usr/lib/sysupdate.d",
            "usr/lib/systemd",
            "efi/EFI/Linux",
            "run/systemd/timesync",
            "dev",
        ] {
            fs::create_dir_all(layout.at(folder)).unwrap();
        }
        fs::write(layout.at("etc/os-release"), "IMAGE_ID=skerry\nIMAGE_VERSION=2\n").unwrap();
        fs::write(layout.config(), format!("[update]\n{update}\n")).unwrap();
        fs::write(layout.at("run/systemd/timesync/synchronized"), "").unwrap();
        for name in ["20-root.transfer", "90-kernel.transfer", "README"] {
            fs::write(layout.at("usr/lib/sysupdate.d").join(name), "").unwrap();
        }
        fs::create_dir_all(layout.at("usr/bin")).unwrap();
        for (path, text) in [("usr/lib/systemd/systemd-sysupdate", SYSUPDATE), ("usr/bin/gpg", GPG)] {
            fs::write(layout.at(path), text).unwrap();
            fs::set_permissions(layout.at(path), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { _root: root, layout }
    }

    fn offers(&self, version: &str) {
        fs::write(self.layout.at("offered"), version).unwrap();
    }

    /// At noon of a Monday.
    fn update(&self) -> Result<Outcome, String> {
        update(&self.layout, || 1_704_110_400, false)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.layout.at(path)).unwrap_or_default()
    }
}

const SOURCE: &str = "source = \"https://updates.example/skerry\"\nautomatic = true";

#[test]
fn a_new_version_is_installed_and_booted() {
    let this = Machine::new(SOURCE);
    assert_eq!(this.update(), Ok(Outcome::Current));
    this.offers("3");
    assert_eq!(this.update(), Ok(Outcome::Reboot("3".into())));
    assert_eq!(this.text("from"), "Path=https://updates.example/skerry\n");
    assert!(
        this.text("run/sysupdate.d/90-kernel.transfer.d/50-skerry.conf").contains("[Source]\nPath=https://")
    );
    assert_eq!(fs::read_dir(this.layout.at("run/sysupdate.d")).unwrap().count(), 2);
    assert!(this.layout.state().join("update/before.json").exists());
    // The power was cut before the reboot: it is not fetched twice.
    fs::remove_file(this.layout.at("from")).unwrap();
    assert_eq!(this.update(), Ok(Outcome::Reboot("3".into())));
    assert!(!this.layout.at("from").exists());
}

#[test]
fn nothing_happens_outside_of_the_window() {
    let this = Machine::new(&format!("{SOURCE}\nwindow = [\"Mon 02:00-05:00\"]"));
    this.offers("3");
    assert_eq!(this.update(), Ok(Outcome::Closed));
    let at_three = || 1_704_078_000;
    fs::remove_file(this.layout.at("run/systemd/timesync/synchronized")).unwrap();
    assert_eq!(update(&this.layout, at_three, false), Ok(Outcome::Closed));
    fs::write(this.layout.at("run/systemd/timesync/synchronized"), "").unwrap();
    assert_eq!(update(&this.layout, at_three, false), Ok(Outcome::Reboot("3".into())));
    assert_eq!(this.update(), Ok(Outcome::Waits("3".into())));
    assert_eq!(update(&this.layout, || 0, true), Ok(Outcome::Reboot("3".into())));
}

#[test]
fn a_version_on_trial_is_not_replaced() {
    let this = Machine::new(SOURCE);
    this.offers("3");
    let mark = crate::trial::mark(&this.layout);
    fs::create_dir_all(mark.parent().unwrap()).unwrap();
    fs::write(&mark, "").unwrap();
    assert_eq!(update(&this.layout, || 0, true), Ok(Outcome::Trial));
    fs::remove_file(&mark).unwrap();
    assert_eq!(this.update(), Ok(Outcome::Reboot("3".into())));
}

#[test]
fn a_version_that_failed_is_not_taken_again() {
    let this = Machine::new(SOURCE);
    fs::write(this.layout.at("efi/EFI/Linux/skerry_3+0-3.efi"), "").unwrap();
    this.offers("3");
    assert_eq!(this.update(), Ok(Outcome::Current));
    this.offers("4");
    assert_eq!(this.update(), Ok(Outcome::Reboot("4".into())));
}

#[test]
fn an_older_version_that_was_chosen_in_the_boot_menu_runs_on() {
    for (config, nothing) in [("", Outcome::Off), (SOURCE, Outcome::Current)] {
        let this = Machine::new(config);
        fs::write(this.layout.at("efi/EFI/Linux/skerry_3+9.efi"), "").unwrap();
        assert_eq!(this.update(), Ok(nothing));
    }
    // One that nobody tried yet is taken all the same.
    let this = Machine::new(SOURCE);
    fs::write(this.layout.at("efi/EFI/Linux/skerry_3+9.efi"), "").unwrap();
    this.offers("4");
    assert_eq!(this.update(), Ok(Outcome::Reboot("4".into())));
}

#[test]
fn what_goes_wrong_is_told() {
    let this = Machine::new(SOURCE);
    this.offers("3");
    fs::write(this.layout.at("broken"), "").unwrap();
    let words = this.update().unwrap_err();
    assert_eq!(words, "systemd-sysupdate update 3: Failed to pull: No space left on device");
    let told = status::read(&this.layout);
    assert_eq!((told[0].unit.as_str(), told[0].words.as_str()), ("update", words.as_str()));
    fs::remove_file(this.layout.at("broken")).unwrap();
    this.update().unwrap();
    assert!(status::read(&this.layout).is_empty());
}

#[test]
fn a_box_that_takes_none_asks_nobody() {
    for config in ["", "source = \"https://updates.example\""] {
        let this = Machine::new(config);
        this.offers("3");
        assert_eq!(this.update(), Ok(Outcome::Off));
    }
    let this = Machine::new(SOURCE);
    this.offers("3");
    fs::write(this.layout.at("etc/os-release"), "ID=debian\n").unwrap();
    assert_eq!(this.update(), Ok(Outcome::Off));
}

/// Plugs in a stick with these files in its folder `update`.
fn plug(this: &Machine, files: &[(&str, &[u8])]) {
    const LENGTH: u64 = 1 << 20;
    if !this.layout.at("sys/block/sdb").exists() {
        add(&this.layout, "pci0/usb1/1-1", "sdb", LENGTH / 512, &[]);
    }
    let path = this.layout.at("dev/sdb");
    let file = File::options().create(true).truncate(true).read(true).write(true).open(path).unwrap();
    file.set_len(LENGTH).unwrap();
    fat::tests::format(&file, 0, LENGTH, "SKERRY");
    let volume = Volume::open(&file, 0, LENGTH, true).unwrap();
    volume.make_dir("update").unwrap();
    for (name, bytes) in files {
        volume.write(&format!("update/{name}"), bytes).unwrap();
    }
    volume.close().unwrap();
}

#[test]
fn the_newest_version_of_a_stick_is_copied_and_installed() {
    let this = Machine::new("");
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86-64" };
    let kernel = format!("skerry_3_{machine}.efi");
    let sum = "a".repeat(64);
    let sums = format!("{sum} *{kernel}\n{sum} *skerry_1_{machine}.efi\n{sum} *skerry_4_{machine}.raw\n");
    let (list, signature) = (("SHA256SUMS", sums.as_bytes()), ("SHA256SUMS.gpg", &b"signature"[..]));
    this.offers("3");
    plug(&this, &[list]);
    assert_eq!(this.update(), Err("stick sdb: update/SHA256SUMS.gpg is missing".into()));
    plug(&this, &[list, ("SHA256SUMS.gpg", b"a stranger's"), (&kernel, b"kernel")]);
    let refused = "stick sdb: update/SHA256SUMS is not signed by who signs versions of this image";
    assert_eq!(this.update(), Err(refused.into()));
    plug(&this, &[list, signature]);
    assert_eq!(this.update(), Err(format!("stick sdb: update/{kernel} is missing")));
    assert_eq!(this.text("from"), "");
    plug(&this, &[list, signature, (&kernel, b"kernel"), ("other", b"other")]);
    assert_eq!(this.update(), Ok(Outcome::Reboot("3".into())));
    let from = this.text("from");
    assert!(
        from.starts_with("Path=file:///") && from.ends_with("/var/lib/skerry-box/update/stick/\n"),
        "{from}"
    );
    assert_eq!(this.text("copied"), format!("SHA256SUMS\nSHA256SUMS.gpg\n{kernel}\n"));
    let copy = this.layout.state().join("update/stick");
    assert!(!copy.exists());
    // What a power cut left there is removed, whatever there is to do.
    fs::create_dir_all(&copy).unwrap();
    fs::write(this.layout.config(), "").unwrap();
    fs::remove_file(this.layout.at("efi/EFI/Linux/skerry_3+3.efi")).unwrap();
    fs::write(this.layout.at("dev/sdb"), "").unwrap();
    assert_eq!(this.update(), Ok(Outcome::Off));
    assert!(!copy.exists());
}

#[test]
fn a_stick_without_anything_new_changes_nothing() {
    let files = [("SHA256SUMS", &b"nonsense\n"[..]), ("SHA256SUMS.gpg", &b"signature"[..])];
    let this = Machine::new("");
    plug(&this, &files);
    this.offers("3");
    assert_eq!(this.update(), Ok(Outcome::Current));
    assert_eq!(this.text("from"), "");
    // Nor does it keep away what the source has.
    let this = Machine::new(SOURCE);
    plug(&this, &files);
    this.offers("3");
    assert_eq!(this.update(), Ok(Outcome::Reboot("3".into())));
    assert_eq!(this.text("from"), "Path=https://updates.example/skerry\n");
}
