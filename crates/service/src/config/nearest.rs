//! The right name nearest to a wrong one.

/// Words that people use for a section, and its name.
const SYNONYMS: [(&str, &str); 7] = [
    ("amqp", "broker"),
    ("rabbitmq", "broker"),
    ("redis", "cache"),
    ("s3", "store"),
    ("callback", "callbacks"),
    ("allow", "allowed"),
    ("limit", "max"),
];

/// A name that shares less than this with another is not meant by it.
const LEAST_LIKENESS: f64 = 0.5;

/// The candidate that is most like a name, if any is. Names are compared word by word, whatever stands between them.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = words(name);
    let mut best = (LEAST_LIKENESS, None);
    for candidate in candidates {
        let words = words(candidate);
        // Of names that share as many words, the one that has the fewest letters more.
        let letters = strsim::normalized_damerau_levenshtein(&wanted.concat(), &words.concat());
        let likeness = likeness(&wanted, &words) + letters / 100.0;
        if likeness > best.0 {
            best = (likeness, Some(candidate));
        }
    }
    best.1
}

/// `; did you mean "…"?`, or nothing.
pub(super) fn hint<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default()
}

fn words(name: &str) -> Vec<String> {
    let words = name.split(['.', '_', '-']).filter(|word| !word.is_empty()).map(str::to_ascii_lowercase);
    let known = |word: String| {
        let synonym = SYNONYMS.iter().find(|(theirs, _)| *theirs == word);
        synonym.map_or(word, |(_, ours)| (*ours).to_owned())
    };
    words.filter(|word| word != "echogen").map(known).collect()
}

/// From 0 to 1: how much of both names the other has too.
fn likeness(one: &[String], other: &[String]) -> f64 {
    let shared = |word: &String| {
        let likes = other.iter().map(|candidate| strsim::normalized_damerau_levenshtein(word, candidate));
        // Words that have little in common have nothing in common.
        likes.fold(0.0, f64::max).powi(2)
    };
    2.0 * one.iter().map(shared).sum::<f64>() / (one.len() + other.len()).max(1) as f64
}
