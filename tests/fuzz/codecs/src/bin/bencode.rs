//! Bencode: what is taken is written back as it was; what is taken only leniently, in the one canonical form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skerry_wire::bencode::{Value, Writer, decode, decode_lenient, decode_prefix};

fn write(value: &Value<'_>, writer: &mut Writer) {
    match value {
        Value::Integer(integer) => writer.integer(*integer),
        Value::Bytes(bytes) => writer.bytes(bytes),
        Value::List(values) => writer.list(|list| values.iter().for_each(|value| write(value, list))),
        Value::Dict(dict) => writer.dict(|out| {
            for (key, value) in dict.iter() {
                write(value, out.key(key));
            }
        }),
    }
}

fn written(value: &Value<'_>) -> Vec<u8> {
    let mut writer = Writer::new();
    write(value, &mut writer);
    writer.finish()
}

fuzz_target!(|data: &[u8]| {
    let strict = decode(data);
    match decode_prefix(data) {
        Ok((value, length)) => {
            assert_eq!(written(&value), data[..length]);
            assert_eq!(strict.is_ok(), length == data.len());
            assert_eq!(decode(&data[..length]), Ok(value));
        }
        Err(error) => assert_eq!(strict, Err(error)),
    }
    let Ok(value) = decode_lenient(data) else {
        assert!(strict.is_err());
        return;
    };
    let canonical = written(&value);
    let again = decode(&canonical).expect("what is written is canonical");
    assert_eq!(written(&again), canonical);
    if strict.is_ok() {
        assert_eq!(canonical, data);
    }
    if let Some(dict) = value.dict() {
        for (key, value) in dict.iter() {
            assert_eq!(dict.get(key), Some(value));
            let raw = dict.raw(key).expect("every value has its bytes");
            assert_eq!(decode_lenient(raw).as_ref(), Ok(value));
        }
    }
});
