//! A packaged policy: one file, `NAME.policy.wasm`, that stays a component for any other tool.
//!
//! A component, then a custom section with the manifest, then, when it is signed, a custom section
//! with the text of a minisign signature over every byte before that section. Nothing else after the
//! component: what is not covered by the signature is the signature alone.
//!
//! What is read here comes from anybody. Only the top level of the binary is walked (component model,
//! `design/mvp/Binary.md`): sections of an id, a length and a body. What they hold is wasmtime's to
//! check.

use std::ops::Range;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::manifest::{MOST_MANIFEST, Manifest, ManifestError};

/// Largest component, bytes.
pub const MOST_COMPONENT: u64 = 64 << 20;
/// Longest text of a signature, bytes.
pub const MOST_SIGNATURE: usize = 4 << 10;
/// Largest file: what reads one may stop after so many bytes and one more.
pub const MOST_PACKAGE: u64 =
    MOST_COMPONENT + (MOST_MANIFEST + MOST_SIGNATURE) as u64 + 2 * (MOST_HEADER as u64);
/// Largest id, length and name before the text of one of our sections, bytes.
const MOST_HEADER: usize = 64;

const MAGIC: [u8; 4] = *b"\0asm";
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];
const MODULE: [u8; 4] = [1, 0, 0, 0];
const MANIFEST: &str = "skerry-policy-manifest";
const SIGNATURE: &str = "skerry-policy-signature";

/// What is wrong with a file, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// It is no wasm.
    #[error("no wasm: it does not begin as wasm files do")]
    NotWasm,
    /// It is wasm, as compilers write it.
    #[error("a core module; `skerry policy build` makes a component of it")]
    CoreModule,
    /// It is wasm of a kind that is not known here.
    #[error("wasm of an unknown version ({0:02x?}), neither a component nor a core module")]
    UnknownVersion([u8; 4]),
    /// A part is larger than may be.
    #[error("the {part} has {size} bytes; at most {most} are taken")]
    TooLarge {
        /// Which part.
        part: &'static str,
        /// Its size, bytes.
        size: u64,
        /// The largest that is taken, bytes.
        most: u64,
    },
    /// It ends within a section.
    #[error("cut off: the section at byte {offset} reaches past the end; copy the file again")]
    Truncated {
        /// Where the section begins.
        offset: usize,
    },
    /// A length that is no number of 32 bits.
    #[error("the length at byte {offset} is no number of 32 bits; build the policy again")]
    Length {
        /// Where the length begins.
        offset: usize,
    },
    /// It has no manifest.
    #[error("a component without a manifest; `skerry policy build` packs the two together")]
    NoManifest,
    /// A section that may be there once is there again.
    #[error("it has a second section `{0}`; build the policy again")]
    Duplicate(&'static str),
    /// A section stands where it may not.
    #[error("{section} at byte {offset} stands after the {after}; build the policy again")]
    Misplaced {
        /// Which section.
        section: &'static str,
        /// Where it begins.
        offset: usize,
        /// What it stands after.
        after: &'static str,
    },
    /// A text is no UTF-8.
    #[error("the {0} is no UTF-8 text; build the policy again")]
    NotText(&'static str),
    /// What should be packed is packed already.
    #[error("it is packed already, with a section `{0}`; pack the component as its compiler wrote it")]
    Packed(&'static str),
    /// Its manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// A packaged policy, well formed; who signed it is not known yet.
#[derive(Debug, Clone)]
pub struct Package {
    /// The whole file.
    pub file: Bytes,
    /// The component alone.
    pub component: Bytes,
    /// Its manifest as it is written.
    pub manifest_text: String,
    /// Its manifest.
    pub manifest: Manifest,
    /// What a signature covers: the component and the section of the manifest.
    pub signed: Bytes,
    /// The text of its signature, in minisign's format; nobody has verified it.
    pub signature: Option<String>,
    /// SHA-256 of `signed`: the same whoever signs.
    pub digest: [u8; 32],
}

impl Package {
    /// Reads a packaged policy.
    ///
    /// # Errors
    /// When it is not one, with what would make it one.
    pub fn parse(file: impl Into<Bytes>) -> Result<Self, PackageError> {
        let file = file.into();
        let layout = Layout::of(&file)?;
        let text = |range: Range<usize>, what| {
            let text = std::str::from_utf8(&file[range]).map_err(|_| PackageError::NotText(what))?;
            Ok::<_, PackageError>(text.to_owned())
        };
        let manifest_text = text(layout.manifest, "manifest")?;
        let signed = file.slice(..layout.signed);
        Ok(Self {
            component: file.slice(..layout.component),
            manifest: Manifest::parse(&manifest_text)?,
            manifest_text,
            digest: Sha256::digest(&signed).into(),
            signed,
            signature: layout.signature.map(|range| text(range, "signature")).transpose()?,
            file: file.clone(),
        })
    }

    /// The digest as 64 hex digits.
    pub fn digest_hex(&self) -> String {
        self.digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Packs a component with its manifest.
///
/// # Errors
/// When it is no component, or packed already, or the manifest is wrong.
pub fn pack(component: &[u8], manifest_text: &str) -> Result<Vec<u8>, PackageError> {
    preamble(component)?;
    let mut at = START;
    while at < component.len() {
        let section = Section::at(component, at)?;
        if let Some(ours) = section.ours() {
            return Err(PackageError::Packed(ours));
        }
        at = section.end;
    }
    bounded("component", component.len(), MOST_COMPONENT)?;
    Manifest::parse(manifest_text)?;
    let mut packed = component.to_vec();
    push(&mut packed, MANIFEST, manifest_text);
    Ok(packed)
}

/// A packed policy with this signature instead of the one it may have. Does not verify it.
///
/// # Errors
/// When the file is no packed policy, or the signature is longer than any.
pub fn attach_signature(packed: &[u8], signature: &str) -> Result<Vec<u8>, PackageError> {
    bounded("signature", signature.len(), MOST_SIGNATURE as u64)?;
    let mut signed = detach(packed)?;
    push(&mut signed, SIGNATURE, signature);
    Ok(signed)
}

/// A packed policy without a signature: what a signature covers.
///
/// # Errors
/// When the file is no packed policy.
pub fn detach(packed: &[u8]) -> Result<Vec<u8>, PackageError> {
    let layout = Layout::of(packed)?;
    Ok(packed[..layout.signed].to_vec())
}

fn push(file: &mut Vec<u8>, name: &str, text: &str) {
    let mut body = Vec::with_capacity(name.len() + text.len() + 5);
    push_number(&mut body, name.len());
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(text.as_bytes());
    file.push(CUSTOM);
    push_number(file, body.len());
    file.extend_from_slice(&body);
}

/// LEB128, as short as it can be.
fn push_number(to: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// Where the first section begins.
const START: usize = MAGIC.len() + COMPONENT.len();
/// Id of a custom section.
const CUSTOM: u8 = 0;

/// Where the parts of a file are.
struct Layout {
    /// End of the component.
    component: usize,
    /// The text of the manifest.
    manifest: Range<usize>,
    /// End of what a signature covers.
    signed: usize,
    /// The text of the signature.
    signature: Option<Range<usize>>,
}

impl Layout {
    fn of(file: &[u8]) -> Result<Self, PackageError> {
        bounded("file", file.len(), MOST_PACKAGE)?;
        preamble(file)?;
        let mut at = START;
        let (mut manifest, mut signature) = (None, None);
        while at < file.len() {
            let section = Section::at(file, at)?;
            let ours = section.ours();
            let misplaced = |after| PackageError::Misplaced {
                section: ours.unwrap_or("a section"),
                offset: section.start,
                after,
            };
            match (ours, &manifest, &signature) {
                (Some(MANIFEST), Some(_), _) => return Err(PackageError::Duplicate(MANIFEST)),
                (Some(SIGNATURE), _, Some(_)) => return Err(PackageError::Duplicate(SIGNATURE)),
                (_, _, Some(_)) => return Err(misplaced("signature")),
                (Some(MANIFEST), None, _) => manifest = Some((section.start, section.text, section.end)),
                (Some(SIGNATURE), Some(_), None) => signature = Some(section.text),
                (Some(SIGNATURE), None, None) => return Err(misplaced("component and no manifest")),
                (_, Some(_), None) => return Err(misplaced("manifest")),
                (_, None, None) => {}
            }
            at = section.end;
        }
        let (component, manifest, signed) = manifest.ok_or(PackageError::NoManifest)?;
        bounded("component", component, MOST_COMPONENT)?;
        bounded("manifest", manifest.len(), MOST_MANIFEST as u64)?;
        bounded("signature", signature.as_ref().map_or(0, Range::len), MOST_SIGNATURE as u64)?;
        Ok(Self { component, manifest, signed, signature })
    }
}

/// One section of the top level.
struct Section<'a> {
    start: usize,
    /// Name of a custom section; empty for all others.
    name: &'a [u8],
    /// What a custom section holds after its name.
    text: Range<usize>,
    end: usize,
}

impl<'a> Section<'a> {
    /// The section that begins at `start`, which is within the file.
    fn at(file: &'a [u8], start: usize) -> Result<Self, PackageError> {
        let truncated = PackageError::Truncated { offset: start };
        let within = |from: usize, size: u32, most: usize| {
            let end = usize::try_from(size).ok().and_then(|size| from.checked_add(size));
            end.filter(|end| *end <= most).ok_or(PackageError::Truncated { offset: start })
        };
        let id = *file.get(start).ok_or(truncated)?;
        let (size, body) = number(file, start + 1)?;
        let end = within(body, size, file.len())?;
        if id != CUSTOM {
            return Ok(Self { start, name: &[], text: end..end, end });
        }
        let (length, name) = number(&file[..end], body)?;
        let text = within(name, length, end)?;
        Ok(Self { start, name: &file[name..text], text: text..end, end })
    }

    /// Its name, when it is one of ours.
    fn ours(&self) -> Option<&'static str> {
        [MANIFEST, SIGNATURE].into_iter().find(|ours| self.name == ours.as_bytes())
    }
}

/// Refuses what does not begin as a component does.
fn preamble(file: &[u8]) -> Result<(), PackageError> {
    let begin = file.first_chunk::<START>().ok_or(PackageError::NotWasm)?;
    let (magic, version) = begin.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(PackageError::NotWasm);
    }
    if version == COMPONENT {
        Ok(())
    } else if version == MODULE {
        Err(PackageError::CoreModule)
    } else {
        Err(PackageError::UnknownVersion([version[0], version[1], version[2], version[3]]))
    }
}

/// The number at `at` (LEB128, 32 bits), and where it ends.
fn number(file: &[u8], at: usize) -> Result<(u32, usize), PackageError> {
    let mut value = 0;
    for (index, byte) in file.iter().enumerate().skip(at).take(5) {
        let shift = 7 * (index - at);
        if shift == 28 && *byte > 0x0f {
            return Err(PackageError::Length { offset: at });
        }
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value, index + 1));
        }
    }
    Err(PackageError::Truncated { offset: at })
}

fn bounded(part: &'static str, size: usize, most: u64) -> Result<(), PackageError> {
    let size = size as u64;
    if size > most { Err(PackageError::TooLarge { part, size, most }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
