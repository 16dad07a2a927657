//! Credentials that were encrypted to the TPM of this box: `skerry-box credentials`.
//!
//! What lies in `loader/credentials` of the boot partition is handed over by systemd-stub, and stays encrypted in
//! `/run/credentials/@encrypted` (systemd-creds(1), systemd-stub(7)). A service that imports it there needs the TPM
//! itself, and does not start at all where that cannot read it, as on another board. So they are decrypted here,
//! once and for all services, into a folder that these look into as well; what cannot be read is told, and is in
//! nobody's way.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use crate::layout::Layout;
use crate::status::{self, Wrong};
use crate::{files, process};

const SEALED: &str = "run/credentials/@encrypted";
/// Where `ImportCredential=` looks, after what the firmware or the hypervisor gave (systemd.exec(5)).
const OPENED: &str = "run/credstore";
/// What the services of a box have to do with; what is systemd's own is left to systemd.
const PREFIX: &str = "skerry.";
/// Most that are looked at.
const MOST: usize = 64;
/// How long the TPM may take for one.
const PATIENCE: Duration = Duration::from_secs(60);

/// Decrypts what is there; gives the names of what it could.
///
/// # Errors
/// When the folders cannot be read or written. A credential that cannot be decrypted is none: it is told.
pub fn open(layout: &Layout) -> Result<Vec<String>, String> {
    let sealed = layout.at(SEALED);
    let mut names: Vec<String> = match fs::read_dir(&sealed) {
        Ok(found) => found.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(format!("{}: {error}", sealed.display())),
    };
    names.retain(|name| name.starts_with(PREFIX));
    names.sort();
    names.truncate(MOST);
    if names.is_empty() {
        return Ok(names);
    }
    // systemd mounts it read-only.
    order(layout, "mount", &["-o", "remount,bind,rw", &sealed.to_string_lossy()])?;
    let folder = layout.at(OPENED);
    files::make_dir(&folder, 0o700, None).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut wrong = Vec::new();
    names.retain(|name| {
        let opened = decrypt(layout, name, &sealed.join(name), &folder.join(name));
        wrong.extend(
            opened.as_ref().err().map(|words| Wrong::file(format!("{name}.cred (boot partition)"), words)),
        );
        opened.is_ok()
    });
    status::report(layout, "credentials", wrong)
        .map_err(|error| format!("cannot tell what is wrong: {error}"))?;
    Ok(names)
}

/// Decrypts one, which is then where it was to go, or nowhere.
fn decrypt(layout: &Layout, name: &str, from: &Path, to: &Path) -> Result<(), String> {
    let named = format!("--name={name}");
    let (source, target) = (from.to_string_lossy(), to.to_string_lossy());
    let ended = order(layout, "systemd-creds", &["decrypt", &named, &source, &target]);
    // As long as it is there, services try it and fail.
    files::remove(from).map_err(|error| format!("cannot be removed: {error}"))?;
    ended.map_err(|words| {
        let _ = files::remove(to);
        format!("is not taken; encrypt it to the TPM of this box: {words}")
    })
}

fn order(layout: &Layout, program: &str, arguments: &[&str]) -> Result<(), String> {
    let ended = process::run(&layout.at("usr/bin").join(program), arguments, PATIENCE)
        .map_err(|error| error.to_string())?;
    if ended.status.success() {
        return Ok(());
    }
    let words = ended.stderr.trim().lines().last().unwrap_or("no reason given");
    Err(format!("{program}: {words}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A box with these encrypted credentials, and a TPM that reads those that begin with `right`.
    fn machine(sealed: &[(&str, &str)]) -> (tempfile::TempDir, Layout) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        for folder in [SEALED, "usr/bin", "run/skerry-box"] {
            fs::create_dir_all(layout.at(folder)).unwrap();
        }
        let program = layout.at("usr/bin/systemd-creds");
        let script = "#!/bin/sh\nread -r kind text <\"$3\"\n\
            [ \"$1 $kind\" = \"decrypt right\" ] || { echo 'Object is remote' >&2; echo half >\"$4\"; exit 1; }\n\
            [ \"${2#--name=}\" = \"${3##*/}\" ] && echo \"$text\" >\"$4\"\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mount = layout.at("usr/bin/mount");
        fs::write(&mount, "#!/bin/sh\n[ \"$1 $2\" = '-o remount,bind,rw' ] && [ -d \"$3\" ]\n").unwrap();
        fs::set_permissions(&mount, fs::Permissions::from_mode(0o755)).unwrap();
        for (name, text) in sealed {
            fs::write(layout.at(SEALED).join(name), text).unwrap();
        }
        (root, layout)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_the_tpm_reads_is_opened_and_the_rest_is_told_and_gone() {
        let (_root, layout) = machine(&[
            ("skerry.toml", "right configuration\n"),
            ("skerry.node.token", "wrong token\n"),
            ("network.dns", "right dns\n"),
        ]);
        assert_eq!(open(&layout).unwrap(), ["skerry.toml"]);
        assert_eq!(names(&layout.at(SEALED)), ["network.dns"]);
        assert_eq!(names(&layout.at(OPENED)), ["skerry.toml"]);
        assert_eq!(fs::read_to_string(layout.at(OPENED).join("skerry.toml")).unwrap(), "configuration\n");
        assert_eq!(fs::metadata(layout.at(OPENED)).unwrap().permissions().mode() & 0o777, 0o700);
        let wrong = status::read(&layout);
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].line().contains("skerry.node.token.cred (boot partition)"), "{}", wrong[0].line());
        assert!(wrong[0].line().contains("Object is remote"), "{}", wrong[0].line());
    }

    #[test]
    fn a_box_without_any_has_nothing_to_tell() {
        let (_root, layout) = machine(&[]);
        fs::remove_dir(layout.at(SEALED)).unwrap();
        assert_eq!(open(&layout).unwrap(), Vec::<String>::new());
        assert!(status::read(&layout).is_empty());
    }
}
