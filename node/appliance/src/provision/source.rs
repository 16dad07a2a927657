//! Where configurations come from, and what is read there.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::fat::Volume;
use crate::layout::{Layout, MOST_CONFIG};
use crate::status::Wrong;
use crate::{disk, efi, files};

/// The files of a source, with their largest lengths in bytes: the configuration, the one-time token, the
/// address of the fleet's control node, the fleet's authority as PEM or as `sha256:HEX`, and the machine id
/// of a box that is to be reset.
pub const FILES: [(&str, u64); 5] = [
    ("skerry.toml", MOST_CONFIG),
    ("skerry.token", 1 << 10),
    ("skerry.fleet-url", 2 << 10),
    ("skerry.fleet-ca", 64 << 10),
    ("skerry.factory-reset", 256),
];

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// systemd's credentials: the firmware's, the hypervisor's, or encrypted ones of the boot partition.
    Credential,
    /// A FAT volume labelled for it.
    Stick,
    /// The EFI system partition that the box booted from.
    Esp,
}

impl Kind {
    /// The name that it is remembered by.
    pub fn word(self) -> &'static str {
        match self {
            Self::Credential => "credential",
            Self::Stick => "stick",
            Self::Esp => "esp",
        }
    }
}

/// What a source has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What the source is.
    pub kind: Kind,
    /// Where it is, as an operator would say.
    pub place: String,
    /// `skerry.toml`.
    pub config: Option<Vec<u8>>,
    /// The token.
    pub token: Option<String>,
    /// The fleet's control node.
    pub fleet_url: Option<String>,
    /// The fleet's authority.
    pub fleet_ca: Option<String>,
    /// The machine id of the box that is to be reset.
    pub reset: Option<String>,
    /// What could not be read.
    pub wrong: Vec<Wrong>,
}

impl Offer {
    /// A file of this source, as an operator would say.
    pub fn file(&self, name: &str) -> String {
        format!("{name} ({})", self.place)
    }

    fn read(kind: Kind, place: String, read: impl Fn(&str, u64) -> Result<Option<Vec<u8>>, String>) -> Self {
        let (config, token, fleet_url, fleet_ca, reset) = (None, None, None, None, None);
        let mut offer = Self { kind, place, config, token, fleet_url, fleet_ca, reset, wrong: Vec::new() };
        let mut found = FILES.map(|(name, most)| match read(name, most) {
            Ok(bytes) => bytes,
            Err(words) => {
                let file = offer.file(name);
                offer.wrong.push(Wrong::file(file, words));
                None
            }
        });
        offer.config = found[0].take();
        let mut words = found.map(|bytes| {
            let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).trim().to_owned();
            (!text.is_empty()).then_some(text)
        });
        [offer.token, offer.fleet_url, offer.fleet_ca, offer.reset] =
            [words[1].take(), words[2].take(), words[3].take(), words[4].take()];
        offer
    }

    fn is_empty(&self) -> bool {
        let texts = [&self.token, &self.fleet_url, &self.fleet_ca, &self.reset];
        self.config.is_none() && texts.iter().all(|text| text.is_none()) && self.wrong.is_empty()
    }
}

/// Looks into every source, in the order in which they count.
pub fn offers(layout: &Layout, credentials: Option<&Path>) -> Vec<Offer> {
    let given = credentials.map(|folder| {
        Offer::read(Kind::Credential, "credential".into(), |name, most| {
            match files::read(&folder.join(name), most) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.to_string()),
            }
        })
    });
    let esp = boot_partition(layout);
    let mut volumes: Vec<Offer> =
        disk::blocks(layout).iter().filter_map(|block| volume(block, esp.as_deref())).collect();
    volumes.sort_by_key(|offer| offer.kind == Kind::Esp);
    given.into_iter().chain(volumes).filter(|offer| !offer.is_empty()).collect()
}

/// What a block device offers, if it is a source at all.
fn volume(block: &disk::Block, esp: Option<&str>) -> Option<Offer> {
    let file = File::open(&block.path).ok()?;
    if !Volume::is_likely(&file, 0) {
        return None;
    }
    let volume = Volume::open(&file, 0, block.length, false).ok()?;
    let kind = if esp == Some(block.name.as_str()) {
        Kind::Esp
    } else if volume.label().is_ok_and(|label| label == disk::LABEL) || block.label == disk::LABEL {
        Kind::Stick
    } else {
        return None;
    };
    let place = match kind {
        Kind::Esp => format!("boot partition {}", block.name),
        _ => format!("stick {}", block.name),
    };
    Some(Offer::read(kind, place, |name, most| volume.read(name, most).map_err(|error| error.to_string())))
}

/// The device of the EFI system partition that the boot loader came from, as `vda1`.
fn boot_partition(layout: &Layout) -> Option<String> {
    let id = efi::text(layout, "LoaderDevicePartUUID", efi::LOADER)?.to_ascii_lowercase();
    let known = id.len() == 36 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let link = layout.at("dev/disk/by-partuuid").join(&id);
    let device = known.then(|| link.canonicalize().ok())??;
    device.file_name().map(|name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::disk::tests::add;
    use crate::fat;

    const LENGTH: u64 = 1 << 20;

    fn put(layout: &Layout, name: &str, label: &str, files: &[(&str, &[u8])]) {
        fs::create_dir_all(layout.at("dev/disk/by-partuuid")).unwrap();
        let path = layout.at("dev").join(name);
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path).unwrap();
        file.set_len(LENGTH).unwrap();
        fat::tests::format(&file, 0, LENGTH, label);
        let volume = Volume::open(&file, 0, LENGTH, true).unwrap();
        for (name, bytes) in files {
            volume.write(name, bytes).unwrap();
        }
        volume.close().unwrap();
    }

    #[test]
    fn sources_are_in_their_order() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path().canonicalize().unwrap());
        let size = LENGTH / 512;
        add(&layout, "pci0/ata1", "sda", 9 * size, &[size, size, size]);
        add(&layout, "pci0/usb1/1-1", "sdb", 9 * size, &[size]);
        add(&layout, "pci0/usb1/1-2", "sdc", size, &[]);
        // The boot partition, one that is none, one that holds no FAT, a labelled stick, a foreign one.
        put(&layout, "sda1", "EFI", &[("skerry.toml", b"esp")]);
        put(&layout, "sda2", "OTHER", &[("skerry.toml", b"no")]);
        fs::write(layout.at("dev/sda3"), vec![0; 4096]).unwrap();
        put(
            &layout,
            "sdb1",
            "SKERRY",
            &[("skerry.toml", b"stick"), ("skerry.token", b" a\n"), ("skerry.fleet-url", b"https://c")],
        );
        put(&layout, "sdc", "HOLIDAY", &[("skerry.toml", b"no")]);
        let id = "0b7b5f3c-0000-4000-8000-00000000000A";
        fs::create_dir_all(layout.at("sys/firmware/efi/efivars")).unwrap();
        efi::set_text(&layout, "LoaderDevicePartUUID", efi::LOADER, id).unwrap();
        symlink("../../sda1", layout.at("dev/disk/by-partuuid").join(id.to_ascii_lowercase())).unwrap();
        let credentials = root.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        assert_eq!(offers(&layout, Some(&credentials)).len(), 2);
        fs::write(credentials.join("skerry.toml"), "credential").unwrap();
        let found = offers(&layout, Some(&credentials));
        let told: Vec<(Kind, &[u8], &str)> = found
            .iter()
            .map(|offer| (offer.kind, offer.config.as_deref().unwrap(), offer.place.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (Kind::Credential, &b"credential"[..], "credential"),
                (Kind::Stick, b"stick", "stick sdb1"),
                (Kind::Esp, b"esp", "boot partition sda1"),
            ]
        );
        assert_eq!(
            (found[1].token.as_deref(), found[1].fleet_url.as_deref()),
            (Some("a"), Some("https://c"))
        );
    }

    #[test]
    fn what_is_too_long_is_told() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path().canonicalize().unwrap());
        add(&layout, "pci0/usb1/1-1", "sdb", LENGTH / 512, &[]);
        put(&layout, "sdb", "SKERRY", &[("skerry.toml", &[b'#'; MOST_CONFIG as usize + 1])]);
        let found = offers(&layout, None);
        assert_eq!((found.len(), &found[0].config), (1, &None));
        assert_eq!(
            found[0].wrong[0].line(),
            "skerry.toml (stick sdb): skerry.toml is longer than 262144 bytes"
        );
        let credentials = root.path().join("credentials");
        fs::create_dir_all(credentials.join("skerry.token")).unwrap();
        assert_eq!(offers(&layout, Some(&credentials))[0].wrong.len(), 1);
    }
}
