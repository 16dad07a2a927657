//! The stages of a change.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How far the candidate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Asked, and not obeyed.
    #[serde(rename = "shadow")]
    Shadow,
    /// Decides for 1 % of the clients.
    #[serde(rename = "canary-1")]
    Canary1,
    /// Decides for 10 %, those of the 1 % among them.
    #[serde(rename = "canary-10")]
    Canary10,
    /// Decides for all, and is watched.
    #[serde(rename = "all")]
    All,
    /// Has taken over; nothing is watched any more.
    #[serde(rename = "done")]
    Done,
    /// The incumbent decides again.
    #[serde(rename = "demoted")]
    Demoted,
}

/// In the order of their numbers.
pub(super) const STAGES: [Stage; 6] =
    [Stage::Shadow, Stage::Canary1, Stage::Canary10, Stage::All, Stage::Done, Stage::Demoted];

impl Stage {
    /// Its name, as in answers and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shadow => "shadow",
            Self::Canary1 => "canary-1",
            Self::Canary10 => "canary-10",
            Self::All => "all",
            Self::Done => "done",
            Self::Demoted => "demoted",
        }
    }

    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::Shadow => Some(Self::Canary1),
            Self::Canary1 => Some(Self::Canary10),
            Self::Canary10 => Some(Self::All),
            Self::All => Some(Self::Done),
            Self::Done | Self::Demoted => None,
        }
    }

    /// Clients in a hundred that the candidate decides for.
    pub(super) fn percent(self) -> u64 {
        match self {
            Self::Shadow | Self::Demoted => 0,
            Self::Canary1 => 1,
            Self::Canary10 => 10,
            Self::All | Self::Done => 100,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Whose verdict counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// That of the version from before the change.
    Incumbent,
    /// That of the new version.
    Candidate,
}
