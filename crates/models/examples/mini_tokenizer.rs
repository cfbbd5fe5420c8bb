//! Writes the tokenizer of the mini bundle: `mini_tokenizer PATH`.
//!
//! A unigram tokenizer with the structure of T5's (padding 0, end token 1, unknown 2, words begin with `▁`, text is
//! normalised to NFKC first) and 512 tokens: every printable ASCII character, words that describe simple scenes, a few
//! suffixes, and `<extra_id_N>` up to a multiple of 64 as in T5. The vocabulary size of the mini bundle's text encoder
//! must equal the number of tokens. Output is deterministic.

use std::{path::PathBuf, process::ExitCode};

use tokenizers::{
    AddedToken, Result, Tokenizer,
    models::unigram::Unigram,
    normalizers::unicode::NFKC,
    pre_tokenizers::{
        metaspace::{Metaspace, PrependScheme},
        sequence::Sequence,
        whitespace::WhitespaceSplit,
    },
    processors::template::TemplateProcessing,
};

/// Padding, end token, unknown token; the index in this list is the token id.
const SPECIAL: [&str; 3] = ["<pad>", "</s>", "<unk>"];

/// Words by topic, in descending order of the topic's frequency in prompts.
const WORDS: &[&str] = &[
    // Articles, pronouns, verbs and prepositions.
    "a an the A An The and or of in on at with without to from by for near next under over above below behind beside \
     between inside outside around through against into onto off up down left right front back top bottom middle \
     center side corner edge is are was has have be being it its his her their this that these those there one two \
     three four five six seven eight nine ten some many few several all no not very more most as",
    // Colours and materials.
    "red green blue yellow orange purple pink brown black white gray grey gold golden silver cyan magenta teal \
     turquoise beige dark light bright pale colorful metal wooden glass stone plastic paper leather fabric marble \
     wool fluffy shiny matte transparent striped spotted",
    // Shapes and sizes.
    "circle square triangle star heart ring cube ball sphere cylinder cone rectangle line cross diamond oval shape \
     object big small large tiny huge little tall short long wide narrow round flat thick thin",
    // Animals and people.
    "dog cat bird horse cow sheep pig rabbit fox bear lion tiger elephant monkey mouse frog turtle fish duck chicken \
     owl penguin butterfly bee snake dinosaur dragon robot man woman boy girl child baby person people animal puppy \
     kitten tree flower grass plant leaf rose mushroom cactus",
    // Objects.
    "car bus truck train bicycle motorcycle airplane boat ship house building castle tower bridge road chair table \
     bed sofa lamp clock book cup mug bottle bowl plate vase box bag backpack basket hat shoe boot sneaker shirt \
     dress scarf glasses sunglasses umbrella phone camera computer guitar piano toy teddy doll candle key door window \
     mirror pillow blanket can teapot wheel flag crown sword apple banana cherry lemon strawberry pizza cake bread \
     coffee tea food fruit",
    // Places, weather and times.
    "beach sea ocean lake river water mountain hill forest field garden park desert snow snowy ice sand island city \
     street room kitchen table floor wall background sky cloud sun moon stars rain storm fog wind fire sunset sunrise \
     night day morning evening summer winter spring autumn space underwater jungle cave farm",
    // Actions and viewpoints.
    "sitting standing lying running walking jumping flying swimming sleeping eating playing holding wearing riding \
     looking smiling floating sailing dancing open closed old new young happy sad cute beautiful cozy cold warm hot \
     wet dry empty full soft hard",
    // Kinds of pictures.
    "photo picture image painting drawing sketch cartoon watercolor oil pixel art style portrait view closeup macro \
     realistic simple minimal vintage studio product high low quality detailed blurry",
    // Other words in the captions of the drawn world.
    "rocket library meadow stage living during daylight theater",
];

/// Suffixes that follow a word without a space.
const ENDINGS: &[&str] = &["s", "es", "ed", "ing", "er", "est", "ly", "y", "'s", "n't"];

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: mini_tokenizer PATH");
        return ExitCode::FAILURE;
    };
    match mini_tokenizer().and_then(|tokenizer| tokenizer.save(path, true)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the tokenizer.
pub(crate) fn mini_tokenizer() -> Result<Tokenizer> {
    let vocabulary = vocabulary();
    let extra: Vec<_> = vocabulary.iter().map(|(piece, _)| piece.clone()).filter(|p| is_extra(p)).collect();
    let mut tokenizer = Tokenizer::new(Unigram::from(vocabulary, Some(2), false)?);
    let metaspace = Metaspace::new('▁', PrependScheme::Always, true);
    let end_mark = TemplateProcessing::builder()
        .try_single("$A </s>")?
        .try_pair("$A </s> $B </s>")?
        .special_tokens(vec![("</s>", 1)])
        .build()?;
    let special: Vec<_> =
        SPECIAL.map(String::from).into_iter().chain(extra).map(|piece| AddedToken::from(piece, true)).collect();
    tokenizer
        .with_normalizer(Some(NFKC))?
        .with_pre_tokenizer(Some(Sequence::new(vec![WhitespaceSplit.into(), metaspace.clone().into()])))
        .with_post_processor(Some(end_mark))
        .with_decoder(Some(metaspace))
        .add_special_tokens(special)?;
    Ok(tokenizer)
}

/// Returns the pieces with their scores, which are logarithms of approximate frequencies. A whole word scores higher
/// than its letters.
fn vocabulary() -> Vec<(String, f64)> {
    let mut vocabulary: Vec<(String, f64)> = SPECIAL.iter().map(|piece| ((*piece).to_owned(), 0.0)).collect();
    let mut add = |piece: String, score: f64| {
        if !vocabulary.iter().any(|(known, _)| *known == piece) {
            vocabulary.push((piece, score));
        }
    };
    add("▁".to_owned(), -3.0);
    for (rank, word) in WORDS.iter().flat_map(|topic| topic.split_whitespace()).enumerate() {
        add(format!("▁{word}"), -4.0 - f64::from(rank as u32) / 100.0);
    }
    for ending in ENDINGS {
        add((*ending).to_owned(), -6.0);
    }
    for character in '!'..='~' {
        add(character.to_string(), -12.0);
    }
    for n in 0..(64 - vocabulary.len() % 64) % 64 {
        vocabulary.push((format!("<extra_id_{n}>"), 0.0));
    }
    vocabulary
}

fn is_extra(piece: &str) -> bool {
    piece.starts_with("<extra_id_")
}
