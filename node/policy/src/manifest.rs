//! The manifest of a policy: who it is, what it decides, what it asks for, and the test vectors that
//! a node runs before it takes it. TOML, written by hand; read strictly, from anybody.

mod source;
mod vector;

use std::fmt;
use std::str::FromStr;

use semver::Version;
use serde::de::{Error, IgnoredAny, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};
use toml::Spanned;

use source::{Source, nearest};
pub(crate) use source::{cut, shown};
pub use vector::{Expectation, TableEntry, Vector};

/// Longest manifest, bytes.
pub const MOST_MANIFEST: usize = 1 << 20;
/// Longest name of a policy, a counter or a table, bytes.
const MOST_NAME: usize = 64;
/// Counters and tables that a manifest may name, each.
const MOST_NAMES: usize = 16;
/// Test vectors.
const MOST_VECTORS: usize = 256;

/// What a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// Which links a client is sent to.
    RegionRouter,
    /// What a node should hold.
    PreloadPlanner,
    /// Whom a peer downloads from.
    SuperPeerScheduler,
}

impl World {
    /// Every world.
    pub const ALL: [Self; 3] = [Self::RegionRouter, Self::PreloadPlanner, Self::SuperPeerScheduler];

    /// Its name in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RegionRouter => "region-router",
            Self::PreloadPlanner => "preload-planner",
            Self::SuperPeerScheduler => "super-peer-scheduler",
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that is no world's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no world `{name}`; the nearest is `{nearest}`")]
pub struct UnknownWorld {
    /// The name.
    pub name: String,
    /// The world that is named most like it.
    pub nearest: &'static str,
}

impl FromStr for World {
    type Err = UnknownWorld;

    fn from_str(name: &str) -> Result<Self, UnknownWorld> {
        Self::ALL.into_iter().find(|world| world.name() == name).ok_or_else(|| {
            let name = shown(name);
            let nearest = nearest(&name, Self::ALL.map(Self::name)).unwrap_or_default();
            UnknownWorld { name, nearest }
        })
    }
}

/// What is wrong with a manifest, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is longer than any manifest may be.
    #[error("the manifest has {0} bytes; at most {most} are read: use fewer or smaller test vectors", most = MOST_MANIFEST)]
    TooLong(usize),
    /// It is no TOML.
    #[error("manifest line {line}: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// What the parser expected, and what it found.
        message: String,
    },
    /// A key that nobody reads.
    #[error("manifest line {line}: unknown key `{key}`; the nearest known key is `{nearest}`")]
    UnknownKey {
        /// Line, from 1.
        line: usize,
        /// The whole key.
        key: String,
        /// The known key that is named most like it.
        nearest: String,
    },
    /// A key that must be there.
    #[error("manifest line {line}: `{key}` is missing; {add}")]
    Missing {
        /// Line of the table that lacks it, from 1.
        line: usize,
        /// The whole key.
        key: String,
        /// What to write.
        add: &'static str,
    },
    /// A value that may not stand there.
    #[error("manifest line {line}: `{key}`: {reason}")]
    Value {
        /// Line, from 1.
        line: usize,
        /// The whole key.
        key: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// A checked manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Name of the policy: 1 to 64 lowercase letters, digits and hyphens.
    pub name: String,
    /// Its version: three numbers, nothing after them.
    pub version: Version,
    /// What it decides; at least one world, each once.
    pub worlds: Vec<World>,
    /// Whether an instance may serve more than one call.
    pub reuse: bool,
    /// Names of its counters, in the order of their numbers.
    pub counters: Vec<String>,
    /// Names of the tables it looks things up in, in the order of their numbers.
    pub tables: Vec<String>,
    /// What it asks for.
    pub limits: Limits,
    /// What it must answer before a node takes it.
    pub vectors: Vec<Vector>,
}

/// What a policy asks for; a node gives at most what its configuration allows, and that where
/// nothing is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wall time of a call, milliseconds; at least 1.
    #[serde(deserialize_with = "positive")]
    pub time_ms: Option<u64>,
    /// Memory of an instance, bytes; at least 1.
    #[serde(deserialize_with = "positive")]
    pub memory_bytes: Option<u64>,
    /// Work of a call, about one unit for each instruction; at least 1.
    #[serde(deserialize_with = "positive")]
    pub fuel: Option<u64>,
}

fn positive<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    match u64::deserialize(from)? {
        0 => Err(D::Error::invalid_value(Unexpected::Unsigned(0), &"at least 1")),
        value => Ok(Some(value)),
    }
}

/// The manifest as it stands, but for its vectors, which are read one by one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: Spanned<String>,
    version: Spanned<String>,
    worlds: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    reuse: bool,
    #[serde(default)]
    counters: Vec<Spanned<String>>,
    #[serde(default)]
    tables: Vec<Spanned<String>>,
    #[serde(default)]
    limits: Limits,
    // Named here so that it counts among the known keys.
    #[serde(default)]
    vectors: IgnoredAny,
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// Says the line, the key, and what would be right.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let source = Source::new(text)?;
        let mut root = source.root()?;
        let vectors = root.get_mut().remove("vectors");
        if let Some(limits) = root.get_ref().get("limits") {
            source.table(limits, "limits")?;
        }
        let fields: Fields = source.read(toml::Deserializer::from(root))?;
        let Fields { name, version, worlds, reuse, counters, tables, limits, vectors: IgnoredAny } = fields;
        let mut manifest = Self {
            name: source.name(name)?,
            version: source.version(&version)?,
            worlds: source.worlds(worlds)?,
            reuse,
            counters: source.names(counters, "counters")?,
            tables: source.names(tables, "tables")?,
            limits,
            vectors: Vec::new(),
        };
        if let Some(vectors) = vectors {
            let values = source.tables(vectors, "vectors", MOST_VECTORS)?;
            for (index, value) in values.into_iter().enumerate() {
                let (span, vector) = (value.span(), vector::read(&source, &manifest, index, value)?);
                if manifest.vectors.iter().any(|other| other.name == vector.name) {
                    let reason = format!("another vector is named `{}`; give each its own name", vector.name);
                    return Err(source.wrong(&span, format!("vectors[{index}].name"), reason));
                }
                manifest.vectors.push(vector);
            }
        }
        Ok(manifest)
    }
}

impl Source<'_> {
    fn name(&self, name: Spanned<String>) -> Result<String, ManifestError> {
        if is_name(name.get_ref(), b"-") {
            return Ok(name.into_inner());
        }
        let reason = format!(
            "`{}` is no name; use 1 to {MOST_NAME} lowercase letters, digits and hyphens, and begin with a letter or digit",
            shown(name.get_ref())
        );
        Err(self.wrong(&name.span(), "name".into(), reason))
    }

    fn version(&self, version: &Spanned<String>) -> Result<Version, ManifestError> {
        let parsed = Version::parse(version.get_ref()).ok();
        // Versions are compared, and two that differ in their suffix alone are hard to tell apart.
        parsed.filter(|parsed| parsed.pre.is_empty() && parsed.build.is_empty()).ok_or_else(|| {
            let shown = shown(version.get_ref());
            let reason = format!("`{shown}` is no version; use three numbers, as `1.0.0`");
            self.wrong(&version.span(), "version".into(), reason)
        })
    }

    fn worlds(&self, names: Spanned<Vec<Spanned<String>>>) -> Result<Vec<World>, ManifestError> {
        let mut worlds = Vec::new();
        for (index, name) in names.get_ref().iter().enumerate() {
            let key = || format!("worlds[{index}]");
            let world: World = name
                .get_ref()
                .parse()
                .map_err(|error: UnknownWorld| self.wrong(&name.span(), key(), error.to_string()))?;
            if worlds.contains(&world) {
                return Err(self.wrong(&name.span(), key(), format!("`{world}` comes twice; name it once")));
            }
            worlds.push(world);
        }
        if worlds.is_empty() {
            let reason =
                format!("names no world; name at least one of {}", World::ALL.map(World::name).join(", "));
            return Err(self.wrong(&names.span(), "worlds".into(), reason));
        }
        Ok(worlds)
    }

    fn names(&self, names: Vec<Spanned<String>>, list: &str) -> Result<Vec<String>, ManifestError> {
        let mut checked = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let (span, name) = (name.span(), name.into_inner());
            let reason = if index == MOST_NAMES {
                format!("is one too many; at most {MOST_NAMES} may be named")
            } else if !is_name(&name, b"-_") {
                format!(
                    "`{}` is no name; use 1 to {MOST_NAME} lowercase letters, digits, hyphens and underscores",
                    shown(&name)
                )
            } else if checked.contains(&name) {
                format!("`{name}` comes twice; name it once")
            } else {
                checked.push(name);
                continue;
            };
            return Err(self.wrong(&span, format!("{list}[{index}]"), reason));
        }
        Ok(checked)
    }
}

/// Lowercase letters, digits, and `marks` but in first place.
fn is_name(text: &str, marks: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= MOST_NAME
        && bytes.first().is_some_and(plain)
        && bytes.iter().all(|byte| plain(byte) || marks.contains(byte))
}

#[cfg(test)]
mod tests;
