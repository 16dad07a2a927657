//! Nodes that were thrown out.

use super::*;

#[test]
fn a_revoked_node_gets_nothing_in() {
    let control = open(&memory(), NOW);
    hear(&control, beat("a"), NOW).unwrap();
    control.holdings("a", &anew(1, "12"), NOW).unwrap();
    assert!(control.revoke("a", NOW).unwrap());
    assert!(matches!(hear(&control, beat("a"), NOW), Err(Refused::Denied(_))));
    assert!(matches!(control.holdings("a", &anew(2, "1"), NOW), Err(Refused::Denied(_))));
    assert_eq!((live(&control).len(), holders(&control, '1'), control.nodes(NOW).len()), (0, 0, 0));
    // What is not known can be shut out too, and twice.
    assert!(!control.revoke("a", NOW).unwrap() && !control.revoke("z", NOW).unwrap());
    assert!(control.revoke("a/b", NOW).is_err());
    let mut records = 0;
    control.kv().list("", NOW, &mut |_, _| records += 1).unwrap();
    assert_eq!(records, 2);
}

#[test]
fn what_is_revoked_is_told_of() {
    let kv = memory();
    let control = open(&kv, NOW);
    hear(&control, beat("a"), NOW).unwrap();
    control.revoke("a", NOW + 1).unwrap();
    control.revoke("b", NOW + 2).unwrap();
    control.revoke("b", NOW + 3).unwrap();
    let revoked = |id: &str, since_ms| Revoked { id: id.into(), since_ms };
    let wanted = [revoked("a", NOW + 1), revoked("b", NOW + 2)];
    assert_eq!(control.revoked(NOW + 3), wanted);
    assert_eq!(open(&kv, NOW + 4).revoked(NOW + 4), wanted);
    // What a damaged record denies stays denied.
    kv.put("denied/c", b"\xff", Life::forever(NOW)).unwrap();
    assert!(control.is_denied("c", NOW));
}
