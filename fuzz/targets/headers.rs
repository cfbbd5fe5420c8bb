//! Headers of a message, given as lines of `name: text`.

use std::collections::BTreeMap;

use echogen_protocol::{TaskHeaders, limits};

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines = text.split('\n').filter_map(|line| line.split_once(": "));
    let map: BTreeMap<String, String> = lines.map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
    let headers = TaskHeaders::from_map(&map);
    let written = headers.to_map();
    assert!(written.values().all(|text| text.len() <= limits::MAX_HEADER_BYTES));
    assert_eq!(TaskHeaders::from_map(&written), headers, "headers read back are the same");
}
