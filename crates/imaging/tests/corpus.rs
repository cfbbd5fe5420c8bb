//! The committed inputs of the fuzz target, as an ordinary test.

#[path = "../../../fuzz/targets/pictures.rs"]
mod pictures;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/pictures");

#[test]
fn the_inputs_of_the_target_are_answered() {
    let files: Vec<_> = std::fs::read_dir(CORPUS).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 40, "{} files in {CORPUS}", files.len());
    for file in files {
        pictures::run(&std::fs::read(file).unwrap());
    }
}
