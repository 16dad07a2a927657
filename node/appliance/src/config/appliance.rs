//! `[box]`.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use super::moment::Moment;

/// What keeps the data of a box from whoever takes its disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskEncryption {
    /// Nothing need to.
    None,
    /// The TPM, or a key that the machine is given at each boot (`skerry.disk-key`).
    #[default]
    Credential,
    /// The TPM.
    Tpm2,
}

/// `[box]`: what the appliance's image is to insist on, and what it is to allow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct BoxConfig {
    /// What must keep the data: tpm2, credential (a TPM, or else a key that the machine is given as the
    /// credential skerry.disk-key), or none. A box that has less does not take this configuration.
    pub disk_encryption: DiskEncryption,
    /// Until when a stick may bring a shell, two weeks from now at most: "2026-12-01T18:00:00Z", UTC; empty
    /// never. Images of a release take none.
    pub debug_until: Moment,
}
