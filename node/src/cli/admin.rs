//! `skerry admin certificate`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use skerry_core::operator;
use skerry_registry::ca::{self, Authority, CA_CERTIFICATE, CA_KEY, MOST_REQUEST, NewKey, Request};
use skerry_registry::clock::wall_ms;

use super::print;

#[derive(Debug, Subcommand)]
pub(super) enum Admin {
    /// Make an operator's certificate, where the fleet's authority is
    Certificate(Certificate),
}

impl Admin {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Certificate(certificate) => certificate.execute(),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Certificate {
    /// The operator's name: nodes' logs tell by it who changed what
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// Folder of the fleet's authority, as `skerry node ca-init` made it
    #[arg(long, value_name = "DIR")]
    authority: PathBuf,
    /// Folder for NAME.pem and NAME.key; made when missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Sign this request (PKCS #10, PEM) instead of making a key, which then stays where it is
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// How long the certificate is good, days
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
}

impl Certificate {
    fn execute(&self) -> anyhow::Result<ExitCode> {
        let name = &self.name;
        let [certificate_file, key_file] = ["pem", "key"].map(|kind| self.dir.join(format!("{name}.{kind}")));
        for file in [&certificate_file, &key_file] {
            ensure!(!file.exists(), "{} is there already", file.display());
        }
        let ca_file = self.authority.join(CA_CERTIFICATE);
        let authority = Authority::load(&ca_file, &self.authority.join(CA_KEY))?;
        let (request, key) = match self.given()? {
            Some(request) => (request, None),
            None => {
                let NewKey { key, request } = NewKey::make()?;
                (request, Some(key))
            }
        };
        let certificate = authority.sign_operator(&Request::parse(&request)?, name, self.days, wall_ms())?;
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))?;
        let mut text = format!("operator       {name}, for {} days\n", self.days);
        if let Some(key) = &key {
            ca::write_new(&key_file, key, 0o600)?;
            text.push_str(&format!("key            {}: for {name} alone\n", key_file.display()));
        }
        ca::write_new(&certificate_file, &certificate, 0o644)?;
        text.push_str(&format!(
            "certificate    {}\nauthority      {}\n\nWhere these files are:\n\n  \
             skerry status --node https://NODE:9443 --certificate {name}.pem --key {name}.key --ca {CA_CERTIFICATE}\n",
            certificate_file.display(),
            ca_file.display()
        ));
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The request that is to be signed, if there is one.
    fn given(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.request else { return Ok(None) };
        let cannot = || format!("cannot read the request {}", path.display());
        let length = fs::metadata(path).with_context(cannot)?.len();
        ensure!(length <= MOST_REQUEST as u64, "{} is too large for a request", path.display());
        fs::read_to_string(path).with_context(cannot).map(Some)
    }
}

fn name(text: &str) -> Result<String, String> {
    if operator::is_name(text) {
        return Ok(text.to_owned());
    }
    Err("an operator's name has at most 64 letters, digits, `-`, `.`, `_` and `@`, a letter or digit first"
        .into())
}

#[cfg(test)]
mod tests {
    use skerry_core::operator::Operators;
    use skerry_registry::identity;

    use super::*;

    fn certificate(folder: &std::path::Path, name: &str, request: Option<PathBuf>) -> Certificate {
        let (authority, dir) = (folder.join("ca"), folder.join("out"));
        Certificate { name: name.into(), authority, dir, request, days: 30 }
    }

    fn operator_of(folder: &std::path::Path, name: &str) -> Option<String> {
        let pem = fs::read_to_string(folder.join("out").join(format!("{name}.pem"))).unwrap();
        let der = ca::der_of(&pem).unwrap();
        // No node of the fleet believes that it is one of them.
        assert_eq!(identity::node_of(&der), None);
        Operators::default().name_of(&der).ok()
    }

    #[test]
    fn an_operator_gets_a_certificate_once() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let alice = certificate(folder, "alice", None);
        assert!(alice.execute().is_err());
        assert!(!folder.join("out").exists());
        Authority::create(&folder.join("ca"), wall_ms()).unwrap();
        alice.execute().unwrap();
        assert_eq!(operator_of(folder, "alice").as_deref(), Some("alice"));
        assert!(alice.execute().unwrap_err().to_string().contains("is there already"));
    }

    #[test]
    fn a_key_can_stay_with_its_operator() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        Authority::create(&folder.join("ca"), wall_ms()).unwrap();
        let request = folder.join("bob.csr");
        fs::write(&request, NewKey::make().unwrap().request).unwrap();
        certificate(folder, "bob", Some(request)).execute().unwrap();
        assert_eq!(operator_of(folder, "bob").as_deref(), Some("bob"));
        assert!(!folder.join("out/bob.key").exists());
        let error = certificate(folder, "eve", Some(folder.join("ca/ca.pem"))).execute().unwrap_err();
        assert!(error.to_string().contains("no certificate signing request"), "{error}");
    }
}
