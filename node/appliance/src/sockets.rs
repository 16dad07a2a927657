//! What systemd must know of the configuration before it starts the node: the sockets of ports that the node
//! has no privilege for, how long it may drain, and the folders outside of its own that it writes to.
//!
//! The node opens the other ports itself, with a socket for every worker (the administration has one), and systemd
//! does the same for it. It takes all sockets of a name from systemd or none, so one port below 1024 brings the whole list that it stands
//! in.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::config::{PRIVILEGED, Protocol, Settings};
use crate::generated::{self, Generated};
use crate::layout::Layout;

/// Folder of units that are made while the machine runs.
pub const FOLDER: &str = "/run/systemd/system";
/// All paths below [`FOLDER`] that were ever made.
pub const OURS: [&str; 2] = ["skerry-*.socket", "skerry.service.d/50-skerry-box.conf"];

/// Where the node keeps its data when nothing else is configured, which its unit lets it write to.
const DATA_DIR: &str = "/var/lib/skerry";
/// Beyond the drain: the last answers of the admin listener, background work, and a flush of the store to a
/// slow disk.
const AFTER_DRAIN_SECONDS: u64 = 60;
/// As many as the node takes.
const MOST_WORKERS: usize = 1024;

/// The units, to be written below [`FOLDER`] before the node starts, and systemd be told to reload.
pub fn units(settings: &Settings) -> Vec<Generated> {
    let mut lists: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    let mut listeners = settings.listeners();
    // A tracker's port has a twin in UDP, which no socket of systemd's stands for.
    listeners.retain(|listener| listener.protocol == Protocol::Tcp && listener.name != "tracker");
    let below = |port: u16| (1..PRIVILEGED).contains(&port);
    for listener in &listeners {
        if listeners.iter().any(|other| other.name == listener.name && below(other.address.port())) {
            let line = format!("ListenStream={}\n", listener.address);
            let list = lists.entry((listener.name, listener.key)).or_default();
            list.push(line.repeat(workers(settings, listener.name)));
        }
    }
    let mut units: Vec<_> =
        lists.iter().map(|((name, key), listen)| socket(name, key, &listen.concat())).collect();
    let sockets: Vec<_> = units.iter().map(|unit| unit.path.to_string_lossy().into_owned()).collect();
    units.push(service(settings, &sockets));
    units
}

/// The names of the sockets among the units, to be started before the node.
pub fn names(units: &[Generated]) -> Vec<&str> {
    units.iter().filter_map(|unit| unit.path.to_str()).filter(|path| path.ends_with(".socket")).collect()
}

/// Writes the units of the configuration that the box has kept before the system below `sysroot` begins, which then
/// reads them with all others. Told of them later, systemd would read every unit once more, at each boot.
///
/// Returns whether there is a configuration.
///
/// # Errors
/// When the configuration is wrong, or the units cannot be written; `skerry-box sockets` will tell.
pub fn ahead(sysroot: &Path, folder: &Path) -> io::Result<bool> {
    // The link at the usual place would be followed from the root of the initrd.
    let config = Layout::below(sysroot).state().join("config/skerry.toml");
    if !config.is_file() {
        return Ok(false);
    }
    let settings = Settings::load(&config).map_err(io::Error::other)?;
    generated::write(folder, &units(&settings), &OURS)?;
    Ok(true)
}

/// How many threads of the node accept there, each of which has a socket of its own. Where the node has another
/// number of them, they share.
fn workers(settings: &Settings, name: &str) -> usize {
    match settings.node.workers {
        _ if name.starts_with("admin") => 1,
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        chosen => chosen.min(MOST_WORKERS),
    }
}

fn socket(name: &str, key: &str, listen: &str) -> Generated {
    // It ends and begins with the node, also with one that failed: clients of a node that waits to be started again
    // are refused, and a node that must not be is not started by them. The node for its part only wants it
    // (Sockets=). If it required it, each automatic start would make the socket start anew, and that the node, whose
    // restarts would be counted from the first again; and a port that another program has would end it for good.
    //
    // It belongs to the services: before sockets.target, as by default, it would come before what it comes after.
    // Addresses may come later than the socket (FreeBind=), as they do by DHCP.
    let text = format!(
        "[Unit]\n\
         Description=Skerry: {key}\n\
         BindsTo=skerry.service\n\
         StartLimitIntervalSec=0\n\
         DefaultDependencies=no\n\
         After=sysinit.target skerry-sockets.service\n\
         Conflicts=shutdown.target\n\
         Before=shutdown.target\n\
         \n\
         [Socket]\n\
         FileDescriptorName={name}\n\
         Service=skerry.service\n\
         {listen}\
         ReusePort=yes\n\
         BindIPv6Only=ipv6-only\n\
         FreeBind=yes\n\
         Backlog=4096\n"
    );
    Generated::new(format!("skerry-{name}.socket"), &text)
}

fn service(settings: &Settings, sockets: &[String]) -> Generated {
    let mut text = String::from("[Service]\n");
    if !sockets.is_empty() {
        text.push_str(&format!("Sockets={}\n", sockets.join(" ")));
    }
    let stop = settings.node.drain_seconds.saturating_add(AFTER_DRAIN_SECONDS);
    text.push_str(&format!("TimeoutStopSec={stop}s\n"));
    for folder in [&settings.node.data_dir, &settings.policy.decisions.record_dir] {
        if folder.is_absolute() && !folder.starts_with(DATA_DIR) {
            // One that is not there yet is made by the administrator, or the node says that it cannot.
            let folder = quoted(folder);
            text.push_str(&format!("ReadWritePaths=-{folder}\nNoExecPaths=-{folder}\n"));
        }
    }
    Generated::new("skerry.service.d/50-skerry-box.conf", &text)
}

/// A path as units have it: quoted, and without specifiers (systemd.syntax(7), systemd.unit(5)).
fn quoted(path: &Path) -> String {
    let mut text = String::from("\"");
    for character in path.to_string_lossy().chars() {
        match character {
            '%' => text.push_str("%%"),
            '"' | '\\' => text.extend(['\\', character]),
            _ if character.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(character))),
            _ => text.push(character),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::generated::HEADER;

    fn made(text: &str) -> Vec<Generated> {
        units(&Settings::parse(text, Path::new("x.toml")).unwrap())
    }

    #[test]
    fn what_the_box_has_kept_is_there_before_the_system_begins() {
        let box_ = tempfile::tempdir().unwrap();
        let (sysroot, folder) = (box_.path().join("sysroot"), box_.path().join("run"));
        assert!(!ahead(&sysroot, &folder).unwrap());
        let config = sysroot.join("var/lib/skerry-box/config");
        std::fs::create_dir_all(&config).unwrap();
        std::fs::write(config.join("skerry.toml"), "[public]\nlisten = 1\n").unwrap();
        assert!(ahead(&sysroot, &folder).is_err() && !folder.exists());
        std::fs::write(config.join("skerry.toml"), "[public]\nlisten = [\"0.0.0.0:80\"]\n").unwrap();
        assert!(ahead(&sysroot, &folder).unwrap());
        // What is made of it later is the same, and systemd need not be told.
        let later = units(&Settings::load(&config.join("skerry.toml")).unwrap());
        assert_eq!(names(&later), ["skerry-public.socket"]);
        assert!(!generated::write(&folder, &later, &OURS).unwrap());
    }

    #[test]
    fn a_node_of_high_ports_needs_no_sockets() {
        let units = made("");
        assert_eq!(names(&units), [""; 0]);
        assert_eq!(units.len(), 1);
        assert_eq!(units[0].text, format!("{HEADER}[Service]\nTimeoutStopSec=90s\n"));
    }

    #[test]
    fn a_port_below_1024_brings_its_whole_list() {
        let units = made(
            "node.workers = 1\n[public]\nlisten = [\"0.0.0.0:80\", \"[::]:80\", \"127.0.0.1:8080\"]\n\
             tls_listen = [\"[::]:8443\"]\n",
        );
        assert_eq!(names(&units), ["skerry-public.socket"]);
        let socket = "[Unit]\nDescription=Skerry: public.listen\nBindsTo=skerry.service\n\
                      StartLimitIntervalSec=0\nDefaultDependencies=no\nAfter=sysinit.target skerry-sockets.service\n\
                      Conflicts=shutdown.target\nBefore=shutdown.target\n\n[Socket]\nFileDescriptorName=public\n\
                      Service=skerry.service\nListenStream=0.0.0.0:80\nListenStream=[::]:80\n\
                      ListenStream=127.0.0.1:8080\nReusePort=yes\nBindIPv6Only=ipv6-only\nFreeBind=yes\n\
                      Backlog=4096\n";
        assert_eq!(units[0].text, format!("{HEADER}{socket}"));
        let service = "[Service]\nSockets=skerry-public.socket\nTimeoutStopSec=90s\n";
        assert_eq!(units[1].text, format!("{HEADER}{service}"));
    }

    #[test]
    fn every_worker_has_a_socket_of_its_own() {
        let text = "node.workers = 3\npublic.listen = [\"0.0.0.0:80\"]\n\
                    admin = { listen = \"127.0.0.1:81\", tls_listen = [\"0.0.0.0:82\"] }\n";
        let all: String = made(text).into_iter().map(|unit| unit.text).collect();
        for (port, count) in [(80, 3), (81, 1), (82, 1)] {
            assert_eq!(all.matches(&format!(":{port}\n")).count(), count, "{all}");
        }
        // As many as the machine has processors, where no number is chosen.
        let text = made("public.listen = [\"0.0.0.0:80\"]\n").remove(0).text;
        let processors = std::thread::available_parallelism().unwrap().get();
        assert_eq!(text.matches("\nListenStream=0.0.0.0:80").count(), processors, "{text}");
    }

    #[test]
    fn the_administration_over_tls_has_a_socket_of_its_own() {
        let units = made("[admin]\ntls_listen = [\"[::]:443\"]\n");
        assert_eq!(names(&units), ["skerry-admin-tls.socket"]);
        let text = &units[0].text;
        assert!(
            text.contains("FileDescriptorName=admin-tls\n") && text.contains("ListenStream=[::]:443\n"),
            "{text}"
        );
    }

    #[test]
    fn every_low_port_has_a_socket_and_no_high_one_alone() {
        let tables = ["public.listen", "public.tls_listen", "superpeer.listen"];
        for mask in 0..8 {
            let port = |bit: u32| if (mask >> bit) & 1 == 1 { 443 } else { 8443 };
            let mut text = String::from("superpeer.enabled = true\n");
            for (bit, table) in (0..).zip(tables) {
                text.push_str(&format!("{table} = [\"192.0.2.{bit}:{}\"]\n", port(bit)));
            }
            let units = made(&text);
            let sockets =
                units.iter().filter(|unit| unit.path.extension().is_some_and(|end| end == "socket"));
            let listening: String = sockets.map(|unit| unit.text.as_str()).collect();
            for bit in 0..3 {
                let line = format!("ListenStream=192.0.2.{bit}:443\n");
                assert_eq!(listening.contains(&line), port(bit) == 443, "{mask} {bit}");
            }
            assert!(!listening.contains(":8443\n"));
        }
    }

    #[test]
    fn the_service_may_drain_and_write_as_configured() {
        let units = made(
            "[node]\ndata_dir = \"/srv/100% \\\"new\\\"\"\ndrain_seconds = 600\n\
             [policy.decisions]\nrecord_dir = \"/var/lib/skerry/decisions\"\n",
        );
        let folder = "\"/srv/100%% \\\"new\\\"\"";
        let expected =
            format!("[Service]\nTimeoutStopSec=660s\nReadWritePaths=-{folder}\nNoExecPaths=-{folder}\n");
        assert_eq!(units[0].text, format!("{HEADER}{expected}"));
        assert_eq!(quoted(Path::new("/a\nb")), "\"/a\\x0ab\"");
    }
}
