//! Headers there and back, and what others may send.

use super::*;

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn read_table(entries: Vec<(&str, AMQPValue)>) -> (BTreeMap<String, String>, u32) {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    let (message, redeliveries) = message(Vec::new(), &BasicProperties::default().with_headers(table), false);
    (message.headers, redeliveries)
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[test]
fn headers_come_as_they_went() {
    let headers = map(&[("echogen-job", "one"), ("reply-to", "answers"), ("correlation-id", "7"), ("traceparent", "")]);
    let written = properties(&headers).unwrap();
    assert_eq!(written.message_id().as_ref().map(ShortString::as_str), Some("one"));
    assert_eq!(written.reply_to().as_ref().map(ShortString::as_str), Some("answers"));
    assert_eq!(message(b"{}".to_vec(), &written, false), (Message { body: "{}".into(), headers }, 0));
}

#[test]
fn a_direct_reply_to_whoever_publishes_is_not_asked_for() {
    // Written by hand into the table, where the broker does not put another name in its place.
    let (headers, _) = read_table(vec![("reply-to", long("amq.rabbitmq.reply-to"))]);
    assert_eq!(properties(&headers).unwrap().reply_to(), &None);
    let (headers, _) = read_table(vec![("reply-to", long("amq.rabbitmq.reply-to.g1h2AA"))]);
    assert!(properties(&headers).unwrap().reply_to().is_some(), "the broker's own name for a client");
}

#[test]
fn what_is_too_long_for_a_property_stays_a_header() {
    let headers = map(&[("correlation-id", &"7".repeat(300)), ("echogen-job", &"j".repeat(300))]);
    let written = properties(&headers).unwrap();
    assert_eq!((written.correlation_id(), written.message_id()), (&None, &None));
    assert_eq!(message(Vec::new(), &written, false).0.headers, headers);
}

#[test]
fn headers_that_fit_no_frame_are_refused() {
    for headers in [map(&[("a", &"x".repeat(100_000))]), map(&[(&"n".repeat(256), "x")])] {
        assert!(properties(&headers).unwrap_err().is_permanent());
    }
}

#[test]
fn other_types_are_read_as_text_where_they_have_one() {
    let (headers, _) = read_table(vec![
        ("text", long("é")),
        ("number", AMQPValue::LongInt(-3)),
        ("flag", AMQPValue::Boolean(true)),
        ("bytes", AMQPValue::ByteArray(b"ok".to_vec().into())),
        ("broken", AMQPValue::LongString(vec![0xff].into())),
        ("table", AMQPValue::FieldTable(FieldTable::default())),
        ("list", AMQPValue::FieldArray(vec![long("a")].into())),
        ("void", AMQPValue::Void),
        ("CC", AMQPValue::FieldArray(vec![long("elsewhere")].into())),
        ("BCC", long("elsewhere")),
        ("x-anything", long("the broker's")),
    ]);
    assert_eq!(headers, map(&[("bytes", "ok"), ("flag", "true"), ("number", "-3"), ("text", "é")]));
}

#[test]
fn giant_and_countless_headers_are_bounded() {
    let names: Vec<String> = (0..1_000).map(|number| format!("h{number:04}")).collect();
    let (headers, _) = read_table(names.iter().map(|name| (name.as_str(), long(&"x".repeat(1_000)))).collect());
    let bytes: usize = headers.iter().map(|(name, text)| name.len() + text.len()).sum();
    assert!(!headers.is_empty() && bytes <= MAX_READ_BYTES && headers.len() <= MAX_HEADERS, "{bytes}");
    let (headers, _) = read_table(vec![("giant", long(&"x".repeat(100_000))), ("small", long("x"))]);
    assert_eq!(headers, map(&[("small", "x")]));
}

#[test]
fn redeliveries_are_counted_by_whatever_the_broker_says() {
    let count = |name, number| read_table(vec![(name, AMQPValue::LongLongInt(number))]).1;
    assert_eq!(count("x-delivery-count", 3), 3);
    assert_eq!(count("x-acquired-count", 4), 4);
    assert_eq!(count("x-delivery-count", -1), 0);
    assert_eq!(count("x-delivery-count", i64::MAX), u32::MAX);
    assert_eq!(message(Vec::new(), &BasicProperties::default(), true).1, 1);
}

#[test]
fn the_brokers_own_reason_is_told_and_the_end_of_a_wait_is_none() {
    let death = |reason: &str| {
        let mut death = FieldTable::default();
        death.insert("reason".into(), long(reason)).insert("queue".into(), long("echogen.sample"));
        death.insert("time".into(), AMQPValue::Timestamp(1_700_000_000));
        read_table(vec![("x-death", AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()))]).0
    };
    assert!(death("delivery_limit")[DEAD_LETTER_REASON].contains("delivery limit"));
    assert!(death("rejected")[DEAD_LETTER_REASON].contains("rejected in echogen.sample"));
    assert_eq!(death("rejected")[DEAD_LETTER_TIME], "2023-11-14T22:13:20Z");
    assert!(death("expired").is_empty());
}
