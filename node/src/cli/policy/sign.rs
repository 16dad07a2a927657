//! `skerry policy keygen | sign`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use skerry_policy::Package;
use skerry_policy::package::MOST_PACKAGE;
use skerry_policy::signing::{self, SigningError};

use super::check::claimed_key;
use super::load::{read, read_text, write};
use crate::cli::print;

/// Largest file of a key, bytes.
pub(super) const MOST_KEY: u64 = 4 << 10;
/// Largest file with a password, bytes.
const MOST_PASSWORD: u64 = 1 << 10;

#[derive(Debug, Args)]
pub(in crate::cli) struct Keygen {
    /// File for the secret key; the public one is written beside it, with the ending `.pub`
    #[arg(long, value_name = "KEY")]
    out: PathBuf,
    /// File with a password, which the secret key is encrypted with
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Sign {
    /// The packaged policy; it is signed in place
    file: PathBuf,
    /// File with the secret key
    #[arg(long)]
    key: PathBuf,
    /// File with the secret key's password, if it has one
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl Keygen {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let public_file = self.out.with_extension("pub");
        ensure!(public_file != self.out, "{}: `.pub` is the public key's ending", self.out.display());
        for file in [&self.out, &public_file] {
            ensure!(!file.exists(), "{} is there already; a key is never overwritten", file.display());
        }
        let password = password(self.password_file.as_deref())?;
        let keys = signing::generate(password.as_deref())?;
        create(&self.out, &keys.secret_file, 0o600)?;
        create(&public_file, &keys.public_file, 0o644)?;
        print(&format!(
            "secret key  {}: keep it to yourself\npublic key  {}: give nodes this line of it\n{}\n",
            self.out.display(),
            public_file.display(),
            keys.public
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Sign {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let packed = read(&self.file, MOST_PACKAGE)?;
        let secret = read_text(&self.key, MOST_KEY)?;
        let password = password(self.password_file.as_deref())?;
        let signed = signing::sign(&packed, &secret, password.as_deref()).map_err(|error| match error {
            SigningError::PasswordNeeded => {
                anyhow!("{} has a password; give it with --password-file", self.key.display())
            }
            SigningError::Package(error) => {
                anyhow::Error::from(error).context(self.file.display().to_string())
            }
            other => anyhow::Error::from(other).context(self.key.display().to_string()),
        })?;
        let package = Package::parse(signed.clone())?;
        write(&self.file, &signed)?;
        let key = claimed_key(&package).map(|key| format!(" by key {key}")).unwrap_or_default();
        let (name, version) = (&package.manifest.name, &package.manifest.version);
        print(&format!("{}: {name} {version} is signed{key}\n", self.file.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The password in a file; what an editor ends the line with is not part of it.
fn password(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let Some(file) = file else { return Ok(None) };
    let text = read_text(file, MOST_PASSWORD)?;
    let password = text.trim_end_matches(['\r', '\n']);
    ensure!(!password.is_empty(), "{} holds no password", file.display());
    Ok(Some(password.to_owned()))
}

/// Writes a file that is not there yet.
fn create(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .with_context(|| format!("cannot make {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_key_is_for_its_owner_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let keygen = Keygen { out: folder.path().join("ann.key"), password_file: None };
        keygen.execute().unwrap();
        let mode = fs::metadata(&keygen.out).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let secret = fs::read(&keygen.out).unwrap();
        for missing in ["ann.key", "ann.pub"] {
            let error = keygen.execute().unwrap_err().to_string();
            assert!(error.contains("is there already"), "{error}");
            fs::rename(folder.path().join(missing), folder.path().join("away")).unwrap();
            assert!(keygen.execute().is_err(), "without {missing}");
            fs::rename(folder.path().join("away"), folder.path().join(missing)).unwrap();
        }
        assert_eq!(fs::read(&keygen.out).unwrap(), secret);
        let error = Keygen { out: folder.path().join("bob.pub"), password_file: None }.execute();
        assert!(error.unwrap_err().to_string().ends_with("`.pub` is the public key's ending"));
    }

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("word");
        fs::write(&file, "open sesame\r\n").unwrap();
        assert_eq!(password(Some(&file)).unwrap().as_deref(), Some("open sesame"));
        assert_eq!(password(None).unwrap(), None);
        fs::write(&file, "\n").unwrap();
        assert!(password(Some(&file)).is_err());
    }
}
