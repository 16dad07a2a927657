//! Manifests and packages as anybody may write them: an error or a policy, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skerry_policy::package::{attach_signature, detach, pack};
use skerry_policy::{Manifest, Package};

/// The smallest component.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

fuzz_target!(|data: &[u8]| {
    let _ = Package::parse(data.to_vec());
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = Manifest::parse(text);
    let Ok(packed) = pack(COMPONENT, text) else { return };
    // What was packed is read again as it was.
    let package = Package::parse(packed.clone()).expect("what pack writes is a package");
    assert_eq!(package.manifest_text, text);
    assert_eq!(package.manifest, read.expect("pack reads the manifest first"));
    let Ok(signed) = attach_signature(&packed, text) else { return };
    assert_eq!(detach(&signed).expect("what was attached can be detached"), packed);
});
