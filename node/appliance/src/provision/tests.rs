//! A box in a temporary folder, whose `skerry` is a script.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// Refuses what has `wrong` in it, naming its line; enrols whoever brings the token `good`.
const SKERRY: &str = r#"#!/bin/sh
if [ "$1 $2" = "config check" ]; then
    line=$(grep -n wrong "$3" | head -n 1 | cut -d: -f1)
    [ -z "$line" ] || { echo "skerry: $3:$line: \`node.name\` is wrong" >&2; exit 2; }
    grep -q 'origin' "$3" || { echo "skerry: $3:1: \`sites.default\` is missing" >&2; exit 2; }
    exit 0
fi
while [ $# -gt 0 ]; do
    case $1 in
    --token-file) token=$(cat "$2") ;;
    --dir) dir=$2 ;;
    --control) control=$2 ;;
    esac
    shift
done
[ "$token" = good ] || { echo "skerry: $control answered 403: the token is none" >&2; exit 1; }
mkdir "$dir"
for name in node.key node.pem ca.pem; do echo "$name" >"$dir/$name"; done
printf 'this machine is node edge-7 now; its configuration:\n\n[node]\nname = "edge-7"\n\n[registry]\n'
printf 'control_url = "%s"\nregion = "north"\ncertificate_file = "%s"\n' "$control" "$dir/node.pem"
"#;

struct Machine {
    _root: tempfile::TempDir,
    layout: Layout,
    credentials: PathBuf,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        for folder in ["etc", "usr/bin", "credentials"] {
            fs::create_dir_all(layout.at(folder)).unwrap();
        }
        let skerry = layout.at("usr/bin/skerry");
        fs::write(&skerry, SKERRY).unwrap();
        fs::set_permissions(&skerry, fs::Permissions::from_mode(0o755)).unwrap();
        let credentials = layout.at("credentials");
        Self { _root: root, layout, credentials }
    }

    fn gives(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.credentials.join(name), text).unwrap();
    }

    fn provision(&self) -> Outcome {
        provision(&self.layout, Some(&self.credentials)).unwrap()
    }

    fn enrol(&self) -> Enrolled {
        enrol(&self.layout, Some(&self.credentials)).unwrap()
    }

    fn config(&self) -> Option<String> {
        fs::read_to_string(self.layout.config()).ok()
    }

    fn wrong(&self) -> Vec<String> {
        status::read(&self.layout).iter().map(Wrong::line).collect()
    }
}

fn offer(kind: Kind, config: &str) -> Offer {
    Offer {
        kind,
        place: kind.word().into(),
        config: Some(config.into()),
        token: None,
        fleet_url: None,
        fleet_ca: None,
        reset: None,
        wrong: Vec::new(),
    }
}

#[test]
fn a_right_configuration_is_taken_once() {
    let this = Machine::new();
    assert_eq!(this.provision(), Outcome::Unprovisioned);
    assert!(this.wrong()[0].starts_with("no configuration: "), "{:?}", this.wrong());
    this.gives("skerry.toml", "origin = 1\n");
    assert_eq!(this.provision(), Outcome::Taken("credential".into()));
    assert_eq!(this.config().as_deref(), Some("origin = 1\n"));
    let mode = fs::metadata(this.layout.config()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert!(this.wrong().is_empty());
    assert_eq!(this.provision(), Outcome::Unchanged);
    // What was lost is taken again.
    fs::remove_file(this.layout.config()).unwrap();
    assert_eq!(this.provision(), Outcome::Taken("credential".into()));
}

#[test]
fn a_wrong_one_changes_nothing_and_says_where() {
    let this = Machine::new();
    this.gives("skerry.toml", "origin = 1\nname = \"wrong\"\n");
    assert_eq!(this.provision(), Outcome::Unprovisioned);
    assert_eq!(this.config(), None);
    assert_eq!(this.wrong(), ["skerry.toml (credential), line 2: `node.name` is wrong"]);
    let entry = &status::read(&this.layout)[0];
    assert_eq!((entry.unit.as_str(), entry.key.as_str(), entry.line), ("provision", "node.name", Some(2)));
    this.gives("skerry.toml", "origin = 2\n");
    assert_eq!(this.provision(), Outcome::Taken("credential".into()));
    for (bytes, words) in [
        (&b"origin\nname = \"\xff\"\n"[..], "line 2: is no UTF-8 text"),
        (&b"wrong\n"[..], "line 1: `node.name` is wrong"),
        (&[b'#'; MOST_CONFIG as usize + 1][..], "longer than 262144 bytes"),
    ] {
        this.gives("skerry.toml", bytes);
        assert_eq!(this.provision(), Outcome::Unchanged);
        assert!(this.wrong()[0].contains(words), "{:?}", this.wrong());
        assert_eq!(this.config().as_deref(), Some("origin = 2\n"));
    }
    // Nothing is left of what was refused.
    assert!(!this.layout.runtime().join("offered.toml").exists());
}

#[test]
fn a_stick_corrects_what_a_credential_gives_at_every_boot() {
    let this = Machine::new();
    make_folders(&this.layout).unwrap();
    let look = |offers: &[Offer]| look(&this.layout, offers, &mut Vec::new()).unwrap();
    let credential = offer(Kind::Credential, "origin = 1\n");
    assert_eq!(look(std::slice::from_ref(&credential)), Outcome::Taken("credential".into()));
    let stick = offer(Kind::Stick, "origin = 2\n");
    let both = [credential.clone(), stick.clone()];
    assert_eq!(look(&both), Outcome::Taken("stick".into()));
    assert_eq!(look(&both), Outcome::Unchanged);
    assert_eq!(look(std::slice::from_ref(&credential)), Outcome::Unchanged);
    // An older file on the stick, and then the newer one again.
    assert_eq!(
        look(&[credential.clone(), offer(Kind::Stick, "origin = 1\n")]),
        Outcome::Taken("stick".into())
    );
    assert_eq!(look(&both), Outcome::Taken("stick".into()));
    assert_eq!(this.config().as_deref(), Some("origin = 2\n"));
    // A wrong one is no obstacle to the next source.
    let wrong = offer(Kind::Credential, "wrong\n");
    assert_eq!(look(&[wrong, offer(Kind::Esp, "origin = 3\n")]), Outcome::Taken("esp".into()));
}

#[test]
fn a_stick_resets_the_box_that_it_names() {
    let this = Machine::new();
    make_folders(&this.layout).unwrap();
    let id = "0123456789abcdef0123456789abcdef";
    fs::write(this.layout.at("etc/machine-id"), format!("{id}\n")).unwrap();
    let asks = |kind: Kind, reset: &str| {
        let offers =
            [offer(Kind::Credential, "origin = 1\n"), Offer { reset: Some(reset.into()), ..offer(kind, "") }];
        look(&this.layout, &offers, &mut Vec::new()).unwrap()
    };
    assert_eq!(asks(Kind::Stick, id), Outcome::Reset);
    assert_eq!(asks(Kind::Stick, "fedcba98765432100123456789abcdef"), Outcome::Taken("credential".into()));
    assert_eq!(asks(Kind::Esp, id), Outcome::Unchanged);
}

#[test]
fn a_box_without_encryption_takes_only_a_configuration_that_does_not_want_it() {
    let this = Machine::new();
    fs::write(this.layout.at("etc/os-release"), "IMAGE_ID=skerry\nIMAGE_VERSION=2\n").unwrap();
    this.gives("skerry.toml", "[sites.default]\norigin = \"http://a\"\n");
    assert_eq!(this.provision(), Outcome::Unprovisioned);
    assert!(this.wrong()[0].contains("`box.disk_encryption` wants more than there is"), "{:?}", this.wrong());
    let sites = "[sites.default]\norigin = \"http://a\"\n[box]\ndisk_encryption = ";
    this.gives("skerry.toml", format!("{sites}\"tpm2\"\n"));
    assert_eq!(this.provision(), Outcome::Unprovisioned);
    assert!(this.wrong()[0].starts_with("skerry.toml (credential), line 4: "), "{:?}", this.wrong());
    this.gives("skerry.toml", format!("{sites}\"none\"\n"));
    assert_eq!(this.provision(), Outcome::Taken("credential".into()));
}

#[test]
fn a_box_whose_data_is_encrypted_no_more_refuses_its_configuration() {
    let this = Machine::new();
    let write = |path: &str, text: &str| {
        let path = this.layout.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("etc/os-release", "IMAGE_ID=skerry\nIMAGE_VERSION=2\n");
    write("proc/self/mountinfo", "24 20 253:2 / /var rw - ext4 b rw\n");
    write("sys/dev/block/253:2/dm/uuid", "CRYPT-LUKS2-0-skerry-var\n");
    write("sys/class/tpmrm/tpmrm0/dev", "");
    this.gives("skerry.toml", "[sites.default]\norigin = \"http://a\"\n[box]\ndisk_encryption = \"tpm2\"\n");
    assert_eq!(this.provision(), Outcome::Taken("credential".into()));
    assert_eq!(this.provision(), Outcome::Unchanged);
    assert!(this.layout.is_provisioned());
    // Somebody put a plain one in its place.
    write("proc/self/mountinfo", "24 20 254:6 / /var rw - ext4 b rw\n");
    assert_eq!(this.provision(), Outcome::Unprovisioned);
    assert!(!this.layout.is_provisioned() && this.layout.config().is_file());
    let words = this.wrong();
    assert_eq!(words.len(), 1, "{words:?}");
    assert!(words[0].starts_with("skerry.toml, line 4: `box.disk_encryption` wants more"), "{words:?}");
    assert!(words[0].contains("though it has a TPM"), "{words:?}");
    assert!(!status::told(&this.layout).unwrap().provisioned);
    // An operator may want less, and says so.
    this.gives("skerry.toml", "[sites.default]\norigin = \"http://a\"\n[box]\ndisk_encryption = \"none\"\n");
    assert_eq!(this.provision(), Outcome::Taken("credential".into()));
    assert!(this.layout.is_provisioned() && this.wrong().is_empty());
}

#[test]
fn a_token_makes_a_node_of_a_configured_box() {
    let this = Machine::new();
    this.gives("skerry.toml", "[sites.default]\norigin = \"http://a\"\n");
    this.provision();
    assert_eq!(this.enrol(), Enrolled::NoToken);
    this.gives("skerry.token", "good\n");
    assert_eq!(this.enrol(), Enrolled::Failed);
    assert_eq!(this.wrong(), ["skerry.token (credential): has no skerry.fleet-url beside it"]);
    this.gives("skerry.fleet-url", "https://control:8443\n");
    assert_eq!(fleet_port(&this.layout), None);
    this.provision();
    assert_eq!(fleet_port(&this.layout), Some(8443));
    assert_eq!(this.enrol(), Enrolled::Done);
    this.provision();
    assert_eq!(fleet_port(&this.layout), None);
    assert!(this.wrong().is_empty());
    let config: ::toml::Table = ::toml::from_str(&this.config().unwrap()).unwrap();
    assert_eq!(config["node"]["name"].as_str(), Some("edge-7"));
    assert_eq!(config["registry"]["control_url"].as_str(), Some("https://control:8443"));
    assert_eq!(config["registry"]["key_file"].as_str(), Some("/etc/skerry/fleet/node.key"));
    assert_eq!(config["sites"]["default"]["origin"].as_str(), Some("http://a"));
    let key = fs::metadata(this.layout.config_dir().join("fleet/node.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    // Neither the token nor the key is left in between, and the token is not tried twice.
    assert!(!this.layout.runtime().join("enrol").exists());
    assert_eq!(this.enrol(), Enrolled::NoToken);
    // A new configuration is filled in likewise, and told of by the lines of its own.
    this.gives("skerry.toml", "[registry]\n[sites.default]\norigin = \"http://b\"\n");
    assert_eq!(this.provision(), Outcome::Taken("credential".into()));
    assert!(this.config().unwrap().contains("control_url = \"https://control:8443\""));
    this.gives("skerry.toml", "[registry]\n\n\n[sites.default]\norigin = \"wrong\"\n");
    assert_eq!(this.provision(), Outcome::Unchanged);
    assert_eq!(this.wrong(), ["skerry.toml (credential), line 5: `node.name` is wrong"]);
}

#[test]
fn a_token_alone_needs_a_fleet_that_gives_a_site() {
    let this = Machine::new();
    this.gives("skerry.token", "bad");
    this.gives("skerry.fleet-url", "https://control:8443");
    assert_eq!(this.enrol(), Enrolled::Failed);
    assert!(this.wrong()[0].ends_with("cannot enrol: https://control:8443 answered 403: the token is none"));
    this.gives("skerry.token", "good");
    assert_eq!(this.enrol(), Enrolled::Failed);
    assert!(this.wrong()[0].contains("`sites.default` is missing"), "{:?}", this.wrong());
    assert_eq!(this.config(), None);
    // Not forgotten, though the token is spent.
    assert_eq!(this.enrol(), Enrolled::Failed);
    assert_eq!(this.provision(), Outcome::Unprovisioned);
    let waits = |words: &String| words.starts_with("enrolled, but without configuration");
    assert!(this.wrong().iter().any(waits), "{:?}", this.wrong());
    this.gives("skerry.toml", "[sites.default]\norigin = \"http://a\"\n");
    assert_eq!(this.provision(), Outcome::Taken("credential".into()));
    assert!(this.config().unwrap().contains("name = \"edge-7\""));
    assert_eq!(this.enrol(), Enrolled::NoToken);
    assert!(this.wrong().is_empty());
}

#[test]
fn an_enrolment_that_was_cut_off_is_finished() {
    let this = Machine::new();
    this.gives("skerry.toml", "[sites.default]\norigin = \"http://a\"\n");
    this.provision();
    let before = this.config().unwrap();
    this.gives("skerry.token", "good\n");
    this.gives("skerry.fleet-url", "https://control:8443\n");
    assert_eq!(this.enrol(), Enrolled::Done);
    let after = this.config().unwrap();
    // The plug was pulled after the token was spent, before the configuration was written.
    fs::write(this.layout.config(), &before).unwrap();
    assert_eq!(this.enrol(), Enrolled::Done);
    assert_eq!(this.config().unwrap(), after);
    assert_eq!(this.enrol(), Enrolled::NoToken);
    // Nor does it matter that the operator's own file is not there any more.
    fs::remove_file(offered_path(&this.layout)).unwrap();
    assert_eq!(this.enrol(), Enrolled::NoToken);
    assert_eq!(this.config().unwrap(), after);
}

#[test]
fn tokens_that_were_used_are_remembered_and_one_that_is_none_hides_no_other() {
    let this = Machine::new();
    this.gives("skerry.toml", "[sites.default]\norigin = \"http://a\"\n");
    this.provision();
    this.gives("skerry.fleet-url", "https://control:8443\n");
    let token = |kind, token: &str| Offer {
        token: Some(token.into()),
        fleet_url: Some("https://control:8443".into()),
        ..offer(kind, "")
    };
    let offers = [token(Kind::Credential, "bad"), token(Kind::Stick, "good"), token(Kind::Stick, "used")];
    let record = Record { tokens: vec![digest(b"used")], ..Record::default() };
    let left: Vec<&str> = enrol::unused(&offers, &record).iter().map(|(_, token, _)| *token).collect();
    assert_eq!(left, ["bad", "good"]);
    this.gives("skerry.token", "good");
    assert_eq!(this.enrol(), Enrolled::Done);
    this.gives("skerry.token", "bad");
    assert_eq!(this.enrol(), Enrolled::Failed);
    this.gives("skerry.token", "good");
    assert_eq!(this.enrol(), Enrolled::NoToken);
    assert!(this.wrong().is_empty());
}
