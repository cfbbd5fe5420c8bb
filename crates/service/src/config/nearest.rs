//! Finds the valid name that is most similar to a wrong one.

/// Words that people use for a section, and the section's name.
const SYNONYMS: [(&str, &str); 7] = [
    ("amqp", "broker"),
    ("rabbitmq", "broker"),
    ("redis", "cache"),
    ("s3", "store"),
    ("callback", "callbacks"),
    ("allow", "allowed"),
    ("limit", "max"),
];

/// Names with a similarity below this are not suggested.
const LEAST_LIKENESS: f64 = 0.5;

/// Returns the candidate most similar to a name, if any is similar enough. Names are compared word by word; separators
/// are ignored.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = words(name);
    let mut best = (LEAST_LIKENESS, None);
    for candidate in candidates {
        let words = words(candidate);
        // Among names with equally many common words, the one with the most similar letters wins.
        let letters = strsim::normalized_damerau_levenshtein(&wanted.concat(), &words.concat());
        let likeness = likeness(&wanted, &words) + letters / 100.0;
        if likeness > best.0 {
            best = (likeness, Some(candidate));
        }
    }
    best.1
}

/// Returns `; did you mean "…"?`, or nothing.
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

/// Returns the similarity, 0 to 1: the part of both names' words that the other has too.
fn likeness(one: &[String], other: &[String]) -> f64 {
    let shared = |word: &String| {
        let likes = other.iter().map(|candidate| strsim::normalized_damerau_levenshtein(word, candidate));
        // Squaring reduces the effect of words that share only a few letters.
        likes.fold(0.0, f64::max).powi(2)
    };
    2.0 * one.iter().map(shared).sum::<f64>() / (one.len() + other.len()).max(1) as f64
}
