//! Tests that the tokenizer in `bundles/mini` equals the example program's output.

#[path = "../examples/mini_tokenizer.rs"]
#[allow(dead_code, reason = "the example's main is not called here")]
mod mini_tokenizer;

#[test]
fn the_committed_file_is_what_the_example_writes() {
    let written = mini_tokenizer::mini_tokenizer().unwrap().to_string(true).unwrap();
    let committed = include_str!("../../../bundles/mini/tokenizer.json");
    assert!(written == committed, "run the example mini_tokenizer with the path of bundles/mini/tokenizer.json");
}

#[test]
fn it_has_512_tokens_all_different() {
    let tokenizer = mini_tokenizer::mini_tokenizer().unwrap();
    assert_eq!(tokenizer.get_vocab_size(true), 512);
    assert_eq!(tokenizer.get_vocab(true).len(), 512);
    for (id, token) in ["<pad>", "</s>", "<unk>"].into_iter().enumerate() {
        assert_eq!(tokenizer.token_to_id(token), Some(id as u32));
    }
}
