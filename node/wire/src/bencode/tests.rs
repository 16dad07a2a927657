use super::*;

fn error(bytes: &[u8]) -> Error {
    decode(bytes).expect_err("must be refused")
}

#[test]
fn values_are_read() {
    let value = decode(b"d3:bar4:spam3:fooli42ei-7ei0e0:ee").unwrap();
    let dict = value.dict().unwrap();
    assert_eq!(dict.get(b"bar").and_then(Value::bytes), Some(&b"spam"[..]));
    let list = dict.get(b"foo").and_then(Value::list).unwrap();
    let integers: Vec<_> = list.iter().map(Value::integer).collect();
    assert_eq!(integers, [Some(42), Some(-7), Some(0), None]);
    assert_eq!(list[3].bytes(), Some(&b""[..]));
    assert_eq!(dict.get(b"nope"), None);
    assert_eq!(dict.raw(b"foo"), Some(&b"li42ei-7ei0e0:e"[..]));
    assert_eq!(dict.iter().map(|(key, _)| key).collect::<Vec<_>>(), [b"bar", b"foo"]);
    assert_eq!(format!("{value:?}"), r#"{"bar": "spam", "foo": [42, -7, 0, ""]}"#);
}

#[test]
fn integers_have_one_form_and_64_bits() {
    for (text, value) in [
        ("i0e", Some(0)),
        ("i-1e", Some(-1)),
        ("i9223372036854775807e", Some(i64::MAX)),
        ("i-9223372036854775808e", Some(i64::MIN)),
        ("i9223372036854775808e", None),
        ("i-9223372036854775809e", None),
        ("i99999999999999999999999999e", None),
        ("i-0e", None),
        ("i00e", None),
        ("i03e", None),
        ("i-03e", None),
        ("i+3e", None),
        ("i e", None),
        ("ie", None),
        ("i-e", None),
        ("i--1e", None),
        ("i1.0e", None),
    ] {
        let read = decode(text.as_bytes());
        assert_eq!(read.as_ref().ok().and_then(Value::integer), value, "{text}");
        assert!(value.is_some() || matches!(read, Err(Error::Integer { .. })), "{text}: {read:?}");
    }
}

#[test]
fn lengths_are_bounded_by_the_input() {
    for text in ["5:spam", "4294967296:x", "18446744073709551615:x", "1", "1:", "i1", "l", "d", "d1:a", ""] {
        assert_eq!(error(text.as_bytes()), Error::Truncated, "{text}");
    }
    assert_eq!(error(b"18446744073709551616:x"), Error::Integer { at: 0 });
    assert_eq!(error(b"04:spam"), Error::Integer { at: 0 });
    assert_eq!(error(b"4;spam"), Error::Integer { at: 0 });
    assert_eq!(error(b"-1:"), Error::Unexpected { at: 0 });
    assert_eq!(error(b"x"), Error::Unexpected { at: 0 });
    assert_eq!(error(b"e"), Error::Unexpected { at: 0 });
}

#[test]
fn keys_ascend_and_come_once() {
    assert_eq!(error(b"d1:b0:1:a0:e"), Error::Unsorted { at: 6 });
    assert_eq!(error(b"d1:a0:1:a0:e"), Error::Duplicate { at: 0 });
    assert_eq!(error(b"di1e0:e"), Error::Unexpected { at: 1 });
    assert_eq!(error(b"d1:ae"), Error::Unexpected { at: 4 });
    // Raw bytes are compared: a prefix comes first, and upper case before lower.
    assert!(decode(b"d0:0:1:A0:1:a0:2:aa0:e").is_ok());
    let value = decode_lenient(b"d1:bi2e1:ai1e1:ci3ee").unwrap();
    let dict = value.dict().unwrap();
    assert_eq!(dict.get(b"a").and_then(Value::integer), Some(1));
    assert_eq!(dict.iter().map(|(key, _)| key).collect::<Vec<_>>(), [b"a", b"b", b"c"]);
    assert_eq!(decode_lenient(b"d1:bi2e1:ai1e1:bi3ee"), Err(Error::Duplicate { at: 0 }));
    assert_eq!(decode_lenient(b"ld1:bi2e1:bi1eee"), Err(Error::Duplicate { at: 1 }));
}

#[test]
fn one_value_and_nothing_after_it() {
    assert_eq!(error(b"i1ei2e"), Error::Trailing { at: 3 });
    assert_eq!(decode_prefix(b"d1:ai1eeblock"), Ok((decode(b"d1:ai1ee").unwrap(), 8)));
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| [b"l".repeat(depth), b"e".repeat(depth)].concat();
    assert!(decode(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(error(&nested(MAX_DEPTH + 1)), Error::Depth);
    assert_eq!(error(&b"l".repeat(1 << 20)), Error::Depth);
    assert_eq!(error(&b"d1:a".repeat(1 << 20)), Error::Depth);
}

#[test]
fn values_are_counted() {
    let many = |count: usize| [b"l".to_vec(), b"0:".repeat(count), b"e".to_vec()].concat();
    assert!(decode(&many(MAX_ITEMS - 1)).is_ok());
    assert_eq!(error(&many(MAX_ITEMS)), Error::Items);
}

#[test]
fn no_bytes_make_it_panic() {
    let whole: &[u8] = b"d3:bari-42e4:infod6:lengthi9e4:listl1:a2:bbee5:zzzzz0:e";
    assert!(decode(whole).is_ok());
    for end in 0..whole.len() {
        assert!(decode(&whole[..end]).is_err());
    }
    for at in 0..whole.len() {
        for byte in 0..=u8::MAX {
            let mut bytes = whole.to_vec();
            bytes[at] = byte;
            let _ = decode(&bytes);
            let _ = decode_lenient(&bytes);
            let _ = decode_prefix(&bytes);
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    let mut writer = Writer::new();
    writer.dict(|dict| {
        dict.key(b"a").integer(i64::MIN);
        dict.key(b"b").list(|list| {
            list.bytes(b"");
            list.dict(|_| {});
        });
        dict.key(b"c").raw(b"i1e");
    });
    let bytes = writer.finish();
    assert_eq!(bytes, b"d1:ai-9223372036854775808e1:bl0:dee1:ci1ee");
    assert!(decode(&bytes).is_ok());
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "out of order")]
fn keys_are_written_in_order() {
    Writer::new().dict(|dict| {
        dict.key(b"b").integer(1);
        dict.key(b"a").integer(1);
    });
}
