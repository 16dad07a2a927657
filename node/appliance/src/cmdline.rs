//! The kernel's command line: signed with the kernel, the same on every box, and not to be added to.
//!
//! systemd-stub appends what firmware or a hypervisor hands over (SMBIOS type 11,
//! `io.systemd.stub.kernel-cmdline-extra`) and what add-ons on the EFI system partition hold, under Secure Boot too
//! (systemd-stub(7)). Of words that are there twice the last one counts: another `roothash=` would have another root
//! opened, and given the key of `/var`. The stub measures what it appends into PCR 12, which that key cannot depend
//! on, since credentials are measured there as well. So `skerry-box cmdline` looks at it, in the initrd, before
//! anything of `/var` is opened.

use crate::files;
use crate::layout::Layout;

/// The last word that the build signed, in `image/mkosi.conf`. The kernel takes it for a module's parameter.
const END: &str = "skerry.signed_to_here";

/// What may follow: where to write of what happens.
const MAY_BE_ADDED: [&str; 3] =
    ["console", "systemd.journald.forward_to_console", "systemd.journald.max_level_console"];

/// Longer than the kernel takes one, bytes.
const MOST: u64 = 64 << 10;

/// Checks that this boot has the command line that was signed, and nothing else.
///
/// # Errors
/// Names what was added, and where such things come from.
pub fn check(layout: &Layout) -> Result<(), String> {
    let line =
        files::text(&layout.at("proc/cmdline"), MOST).ok_or("the kernel's command line cannot be read")?;
    let mut words = line.split_ascii_whitespace();
    if !words.any(|word| word == END) {
        return Err(format!("the kernel's command line is not the signed one: `{END}` is not in it"));
    }
    let may_be_added =
        |word: &str| word.split_once('=').is_some_and(|(name, _)| MAY_BE_ADDED.contains(&name));
    match words.find(|word| !may_be_added(word)) {
        None => Ok(()),
        Some(word) => Err(format!(
            "`{word}` was added to the kernel's command line, which is locked: take it out of the machine's SMBIOS \
             strings (type 11), or off the boot partition; only {} may be added",
            MAY_BE_ADDED.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(line: &str) -> Result<(), String> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join("proc/cmdline"), format!("{line}\n")).unwrap();
        check(&Layout::below(root.path()))
    }

    #[test]
    fn the_signed_command_line_is_taken_and_may_say_where_to_write() {
        let signed = format!("roothash=00 console=tty0 lockdown=confidentiality {END}");
        assert_eq!(checked(&signed), Ok(()));
        assert_eq!(
            checked(&format!("{signed} systemd.journald.forward_to_console=1  console=ttyS1,9600")),
            Ok(())
        );
    }

    #[test]
    fn what_was_added_is_named() {
        let added = [
            "roothash=11",
            "init=/bin/sh",
            "systemd.unit=rescue.target",
            "lockdown=none",
            "console",
            "--",
            "\"console=ttyS0",
            "systemd.journald.max_level_console",
            END,
        ];
        for word in added {
            let words = checked(&format!("roothash=00 {END} console=ttyS0 {word} console=tty1")).unwrap_err();
            assert!(words.contains(&format!("`{word}`")) && words.contains("SMBIOS"), "{words}");
        }
        let quoted = checked(&format!("roothash=00 {END} console=\"tty0 init=/bin/sh\"")).unwrap_err();
        assert!(quoted.contains("init="), "{quoted}");
    }

    #[test]
    fn another_command_line_is_refused() {
        assert!(checked("roothash=00 console=tty0").unwrap_err().contains("not the signed one"));
        assert!(check(&Layout::below("/nowhere")).unwrap_err().contains("cannot be read"));
    }
}
