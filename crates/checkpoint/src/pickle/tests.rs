//! Tests on pickles of every protocol, and on hostile ones.

use super::*;

/// The value of the key in a dictionary.
fn entry<'a>(pickle: &Pickle<'a>, dict: Place, key: Value<'a>) -> Option<Place> {
    let last = pickle.last_entry(dict)?;
    let mut at = last;
    loop {
        let (found, value, _) = pickle.entry(at)?;
        if pickle.get(found) == key {
            return Some(value);
        }
        at = pickle.entry(at)?.2;
        if at == last {
            return None;
        }
    }
}

#[test]
fn reads_values_of_every_protocol() {
    // pickle.dumps({"a": {1: OrderedDict()}, "b": (1, -2, 300, 70000), "c": [1]}, protocol=…), of which only what may
    // hold a tensor is kept.
    let protocol_2: &[u8] = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01}q\x02K\x01ccollections\nOrderedDict\nq\x03)Rq\x04sX\x01\x00\x00\x00bq\x05(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00tq\x06X\x01\x00\x00\x00c]K\x01au.";
    let protocol_4: &[u8] = b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94}\x94K\x01\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94s\x8c\x01b\x94(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00t\x94\x8c\x01c\x94]\x94K\x01au.";
    for bytes in [protocol_2, protocol_4] {
        let pickle = Pickle::read(bytes).unwrap();
        let inner = entry(&pickle, pickle.root(), Value::Text("a")).unwrap();
        let innermost = entry(&pickle, inner, Value::Int(1)).unwrap();
        assert_eq!((pickle.get(innermost), pickle.last_entry(innermost)), (Value::Dict, None));
        assert_eq!(entry(&pickle, pickle.root(), Value::Text("b")), None);
    }
}

#[test]
fn tuples_of_every_length_keep_their_items() {
    for (length, bytes) in [
        (0, &b")."[..]),
        (1, b"K\x01\x85."),
        (2, b"K\x01J\xfe\xff\xff\xff\x86."),
        (3, b"K\x01J\xfe\xff\xff\xffM,\x01\x87."),
        (4, b"(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00t."),
    ] {
        let pickle = Pickle::read(bytes).unwrap();
        assert_eq!(pickle.get(pickle.root()), Value::Tuple(length));
        let items: Vec<Value<'_>> = pickle.items(pickle.root(), 9).into_iter().map(|item| pickle.get(item)).collect();
        let expected = [1, -2, 300, 70_000].map(Value::Int);
        assert_eq!(items, expected[..length]);
        assert_eq!(pickle.items(pickle.root(), 2).len(), length.min(2));
    }
}

#[test]
fn long_integers_keep_their_sign() {
    for (bytes, expected) in [
        (&b"\x8a\x00."[..], 0),
        (b"\x8a\x01\xff.", -1),
        (b"\x8a\x02\xff\x00.", 255),
        (b"\x8a\x05\x00\x00\x00\x00\x01.", 1 << 32),
        (b"J\xff\xff\xff\x0f.", (1 << 28) - 1),
        (b"J\x00\x00\x00\x10.", 1 << 28),
    ] {
        let pickle = Pickle::read(bytes).unwrap();
        assert_eq!(pickle.get(pickle.root()), Value::Int(expected));
    }
}

#[test]
fn a_claimed_length_beyond_the_file_is_refused() {
    for bytes in [&b"X\xff\xff\xff\xffabc"[..], b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc", b"\x8b\xff\xff\xff\x7f"] {
        assert!(Pickle::read(bytes).unwrap_err().contains("ends too early"));
    }
}

#[test]
fn unbalanced_stacks_are_refused() {
    for bytes in [
        &b"."[..],
        b"R",
        b"]a",
        b"u",
        b"(0(t",
        b"K\x01(K\x02s.",
        b"h\x07",
        b"(K\x01d.",
        b"K\x01K\x02a.",
        b"(\x85.",
        b"N(\x85.",
        b"}K\x01(s.",
        b"(u.",
    ] {
        assert!(Pickle::read(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_list_that_holds_itself_is_read_once() {
    assert!(Pickle::read(b"]q\x00h\x00a.").is_ok());
}

#[test]
fn the_memo_is_read_in_whatever_order_it_is_written() {
    let pickle = Pickle::read(b"K\x07q\x02K\x05q\x00K\x06q\x01K\x08q\x02(h\x00h\x01h\x02t.").unwrap();
    let items: Vec<Value<'_>> = pickle.items(pickle.root(), 9).into_iter().map(|item| pickle.get(item)).collect();
    assert_eq!(items, [5, 6, 8].map(Value::Int));
    assert!(Pickle::read(b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff.").is_ok());
}

#[test]
fn marks_are_bounded() {
    assert!(Pickle::read(&b"(".repeat(1 << 20)).unwrap_err().contains("nests deeper"));
}
