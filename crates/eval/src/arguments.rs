//! The arguments of `echogen-eval`.

use std::path::PathBuf;

use clap::Parser;

use crate::dreambench::arguments::DreamBenchArguments;

const ABOUT: &str = "How good a bundle is, on subjects that training never saw.";

const EXAMPLES: &str = "\
Examples:
  How good is the bundle, in a minute:
    echogen-eval --quick
  All of it, with the trade-off between words and subject drawn, and the pictures to look at:
    echogen-eval --sweep trade-off.png --grid grid.png
  For a program:
    echogen-eval --json
  On DreamBench, with a full-size bundle; run it again to go on where it stopped:
    git clone https://github.com/google/dreambooth
    echogen-eval --dreambench dreambooth --bundle echogen-2b --keep pictures/ \\
        --dino dino-vits16/ --clip clip-vit-base-patch32/
  How good the pictures in a folder are, whoever made them; no bundle is needed if none is missing:
    echogen-eval --dreambench dreambooth --keep theirs/ --clip clip-vit-base-patch32/

Subjects and scenes are drawn from the small world that the mini bundle was trained on, by
numbers that training never used. What a bundle lacks is shown as \"-\".

With --dreambench they are photographs, 25 sentences for each subject. DINO and CLIP-I are mean
cosines of features of a picture made and a photograph, CLIP-T of a picture made and its sentence;
what has no weights is shown as \"-\". A picture is at KEEP/SUBJECT/00-0.png: the number of the
sentence in prompts_and_classes.txt, and that of the picture, both from 0.";

/// Number of pictures and scenes of a quick run.
const QUICK: usize = 24;

/// The arguments, without the flags of settings.
#[derive(Debug, Parser)]
#[command(name = "echogen-eval", bin_name = "echogen-eval", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct EvalArguments {
    /// Pictures to make and judge, one for each subject
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) pictures: u32,

    /// Scenes to look for a subject in, and to encode and decode
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) scenes: u32,

    /// Few pictures and scenes, for a first impression
    #[arg(long)]
    pub(crate) quick: bool,

    /// Also try other strengths of guidance, and draw what they gain and cost into this PNG file
    #[arg(long, value_name = "FILE")]
    pub(crate) sweep: Option<PathBuf>,

    /// Write the first subjects and what was made of them, unpicked, into this PNG file
    #[arg(long, value_name = "FILE")]
    pub(crate) grid: Option<PathBuf>,

    /// See [`DreamBenchArguments`].
    #[command(flatten)]
    pub(crate) dreambench: DreamBenchArguments,

    /// TOML file with settings; `echogen.toml` is read if it exists
    #[arg(long, value_name = "FILE", help_heading = "General")]
    pub(crate) config: Option<PathBuf>,

    /// Print JSON, one object a line, for programs
    #[arg(long, help_heading = "General")]
    pub(crate) json: bool,
}

impl EvalArguments {
    /// Returns the number of pictures to make.
    pub(crate) fn picture_count(&self) -> usize {
        if self.quick { QUICK } else { self.pictures as usize }
    }

    /// Returns the number of scenes in which the subject is detected.
    pub(crate) fn scene_count(&self) -> usize {
        if self.quick { QUICK } else { self.scenes as usize }
    }
}
