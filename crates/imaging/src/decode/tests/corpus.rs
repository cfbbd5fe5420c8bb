//! The files of the fuzzing corpus are decoded as the fuzzer does.

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/pictures");

#[test]
fn the_corpus_of_the_fuzzer_is_read_without_a_crash() {
    let files: Vec<_> = std::fs::read_dir(CORPUS).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 20, "{} files in {CORPUS}", files.len());
    for file in files {
        crate::fuzzing::decode(&std::fs::read(&file).unwrap());
    }
}
