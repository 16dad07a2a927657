use super::*;

const TEXT: &str = "name = \"a\"\nversion = \"1.0.0\"\nworlds = [\"region-router\"]\n";

/// A component of two sections: a type section, and a custom one with a long form of its length.
fn component() -> Vec<u8> {
    let mut component = [&MAGIC[..], &COMPONENT].concat();
    component.extend_from_slice(&[7, 2, 0x40, 0]);
    component.extend_from_slice(&[CUSTOM, 0x85, 0x80, 0x80, 0x80, 0x00, 4, b'n', b'a', b'm', b'e']);
    component
}

fn packed() -> Vec<u8> {
    pack(&component(), TEXT).unwrap()
}

fn custom(name: &str, text: &str) -> Vec<u8> {
    let mut section = Vec::new();
    push(&mut section, name, text);
    section
}

fn error(file: Vec<u8>) -> PackageError {
    Package::parse(file).unwrap_err()
}

#[test]
fn a_package_reads_what_was_packed() {
    let package = Package::parse(packed()).unwrap();
    assert_eq!(package.component, component());
    assert_eq!(package.manifest_text, TEXT);
    assert_eq!(package.manifest, Manifest::parse(TEXT).unwrap());
    assert_eq!(package.signed, packed());
    assert_eq!(package.signature, None);
    let digest: [u8; 32] = Sha256::digest(packed()).into();
    assert_eq!(package.digest, digest);
    assert_eq!(package.digest_hex().len(), 64);
    assert!(package.digest_hex().starts_with(&format!("{:02x}{:02x}", digest[0], digest[1])));
}

#[test]
fn a_signature_is_attached_replaced_and_taken_off() {
    let signed = attach_signature(&packed(), "one\n").unwrap();
    let package = Package::parse(signed.clone()).unwrap();
    assert_eq!(package.signature.as_deref(), Some("one\n"));
    assert_eq!(package.signed, packed());
    assert_eq!(package.digest, Package::parse(packed()).unwrap().digest);
    let again = attach_signature(&signed, "two\n").unwrap();
    assert_eq!(Package::parse(again.clone()).unwrap().signature.as_deref(), Some("two\n"));
    assert_eq!(detach(&again).unwrap(), packed());
    assert_eq!(detach(&packed()).unwrap(), packed());
}

#[test]
fn what_is_no_component_is_named() {
    let mut module = component();
    module[4..8].copy_from_slice(&MODULE);
    assert_eq!(pack(&module, TEXT), Err(PackageError::CoreModule));
    assert_eq!(
        error(module.clone()).to_string(),
        "a core module; `skerry policy build` makes a component of it"
    );
    module[4] = 0x0c;
    assert_eq!(
        error(module).to_string(),
        "wasm of an unknown version ([0c, 00, 00, 00]), neither a component nor a core module"
    );
    for file in [&b""[..], b"\0asm", b"\0asm\x0d\0\x01", b"#!/bin/sh\nexit 1\n"] {
        assert_eq!(error(file.to_vec()), PackageError::NotWasm);
    }
    assert_eq!(error(component()), PackageError::NoManifest);
}

#[test]
fn every_truncation_is_refused() {
    let signed = attach_signature(&packed(), "signature\n").unwrap();
    for length in 0..signed.len() {
        let result = Package::parse(signed[..length].to_vec());
        if length == packed().len() {
            assert_eq!(result.unwrap().signature, None);
        } else {
            assert!(result.is_err(), "{length} of {} bytes are taken", signed.len());
        }
    }
}

#[test]
fn no_change_of_bytes_panics() {
    let signed = attach_signature(&packed(), "signature\n").unwrap();
    for at in 0..signed.len() {
        for bit in 0..8 {
            let mut changed = signed.clone();
            changed[at] ^= 1 << bit;
            let _ = Package::parse(changed);
        }
    }
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..5000 {
        let mut changed = signed.clone();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(..changed.len());
            match random.u8(..3) {
                0 => changed[at] = random.u8(..),
                1 => {
                    changed.remove(at);
                }
                _ => changed.insert(at, random.u8(..)),
            }
        }
        let _ = Package::parse(changed.clone());
        let _ = detach(&changed);
        let _ = pack(&changed, TEXT);
    }
    for length in 0..64 {
        let mut noise = component();
        noise.extend(std::iter::repeat_with(|| random.u8(..)).take(length));
        let _ = Package::parse(noise);
    }
}

#[test]
fn a_section_may_not_come_twice_or_late() {
    let (manifest, signature, other) =
        (custom(MANIFEST, TEXT), custom(SIGNATURE, "s"), custom("producers", "x"));
    let with = |sections: &[&Vec<u8>]| {
        let mut file = component();
        sections.iter().for_each(|section| file.extend_from_slice(section));
        error(file)
    };
    assert_eq!(with(&[&manifest, &manifest]), PackageError::Duplicate(MANIFEST));
    assert_eq!(with(&[&manifest, &signature, &signature]), PackageError::Duplicate(SIGNATURE));
    assert_eq!(with(&[&manifest, &signature, &manifest]), PackageError::Duplicate(MANIFEST));
    for (sections, after) in [
        (&[&manifest, &other][..], "manifest"),
        (&[&manifest, &other, &signature][..], "manifest"),
        (&[&manifest, &signature, &other][..], "signature"),
        (&[&signature, &manifest][..], "component and no manifest"),
        (&[&signature][..], "component and no manifest"),
    ] {
        let error = with(sections);
        assert!(matches!(error, PackageError::Misplaced { after: found, .. } if found == after), "{error}");
    }
    // Before the manifest, they are the component's own.
    let mut file = component();
    file.extend_from_slice(&other);
    file.extend_from_slice(&manifest);
    assert_eq!(Package::parse(file).unwrap().component.len(), component().len() + other.len());
}

#[test]
fn our_sections_within_others_are_not_ours() {
    let within = custom(MANIFEST, "no manifest at all");
    let mut nested = component();
    nested.push(1);
    push_number(&mut nested, within.len());
    nested.extend_from_slice(&within);
    assert_eq!(error(nested.clone()), PackageError::NoManifest);
    assert_eq!(Package::parse(pack(&nested, TEXT).unwrap()).unwrap().component, nested);
}

#[test]
fn parts_have_bounds() {
    let long = format!("{TEXT}# {}", "x".repeat(MOST_MANIFEST));
    assert!(matches!(pack(&component(), &long), Err(PackageError::Manifest(ManifestError::TooLong(_)))));
    let mut file = component();
    push(&mut file, MANIFEST, &long);
    assert!(matches!(error(file), PackageError::TooLarge { part: "manifest", .. }));

    let long = "x".repeat(MOST_SIGNATURE + 1);
    let too_large = PackageError::TooLarge { part: "signature", size: 4097, most: 4096 };
    assert_eq!(attach_signature(&packed(), &long), Err(too_large.clone()));
    let mut file = packed();
    push(&mut file, SIGNATURE, &long);
    assert_eq!(error(file), too_large);

    let mut large = component();
    large.push(CUSTOM);
    push_number(&mut large, MOST_COMPONENT as usize);
    large.resize(large.len() + MOST_COMPONENT as usize, 0);
    assert!(matches!(pack(&large, TEXT), Err(PackageError::TooLarge { part: "component", .. })));
    push(&mut large, MANIFEST, TEXT);
    assert!(matches!(error(large), PackageError::TooLarge { part: "component", .. }));
    let huge = PackageError::TooLarge { part: "file", size: MOST_PACKAGE + 1, most: MOST_PACKAGE };
    assert_eq!(error(vec![0; MOST_PACKAGE as usize + 1]), huge);
}

#[test]
fn lengths_are_numbers_of_32_bits() {
    for (length, read) in [
        (&[0x7f][..], Ok((0x7f, 1))),
        (&[0x80, 0x01][..], Ok((0x80, 2))),
        (&[0x80, 0x80, 0x80, 0x80, 0x00][..], Ok((0, 5))),
        (&[0xff, 0xff, 0xff, 0xff, 0x0f][..], Ok((u32::MAX, 5))),
        (&[0xff, 0xff, 0xff, 0xff, 0x1f][..], Err(PackageError::Length { offset: 0 })),
        (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00][..], Err(PackageError::Length { offset: 0 })),
        (&[0x80, 0x80][..], Err(PackageError::Truncated { offset: 0 })),
        (&[][..], Err(PackageError::Truncated { offset: 0 })),
    ] {
        assert_eq!(number(length, 0), read, "{length:02x?}");
    }
    for size in [0, 1, 127, 128, 16_383, 16_384, 1 << 20, u32::MAX as usize] {
        let mut bytes = vec![0xaa];
        push_number(&mut bytes, size);
        assert_eq!(number(&bytes, 1), Ok((size as u32, bytes.len())));
    }
    let mut file = component();
    file.extend_from_slice(&[CUSTOM, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(error(file), PackageError::Truncated { offset: component().len() });
    let mut file = component();
    // A name that is longer than its section, with more of the file after it.
    file.extend_from_slice(&[CUSTOM, 2, 9, b'n', 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(error(file), PackageError::Truncated { offset: component().len() });
}

#[test]
fn texts_are_texts() {
    let (manifest, signature) = (custom(MANIFEST, TEXT), custom(SIGNATURE, "s"));
    let mut file = [component(), manifest.clone()].concat();
    *file.last_mut().unwrap() = 0xff;
    assert_eq!(error(file), PackageError::NotText("manifest"));
    let mut file = [component(), manifest, signature].concat();
    *file.last_mut().unwrap() = 0xff;
    assert_eq!(error(file), PackageError::NotText("signature"));
    let wrong = pack(&component(), "name = 1");
    assert!(matches!(wrong, Err(PackageError::Manifest(ManifestError::Value { .. }))), "{wrong:?}");
}

#[test]
fn what_is_packed_is_not_packed_again() {
    let again = pack(&packed(), TEXT).unwrap_err().to_string();
    assert!(again.starts_with("it is packed already, with a section `skerry-policy-manifest`"), "{again}");
}
