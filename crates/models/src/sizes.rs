//! The sizes of a bundle's networks, read from its TOML file alone, and whether they fit each other.
//!
//! Nothing in the program names a size: another EchoGen is another file. So a mistake in it is found here, before any weight
//! is read, and the error names the fields and says what to change.

use std::collections::{BTreeMap, BTreeSet};

use echogen_checkpoint::bundle::{Bundle, BundleError, Network};
use serde::de::IgnoredAny;

use crate::{
    dinov2::Dinov2Config,
    echogen::{EchoGenConfig, Schedules, check_sizes},
    flux_vae::FluxVaeConfig,
    t5::T5Config,
    visual_tokenizer::TokenizerConfig,
};

/// Most levels of a visual tokenizer. Each but one halves both sides: the published one has five, for 16 pixels.
const MAX_LEVELS: usize = 8;

/// The sizes of the networks that sample, and those of pictures and subjects.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// The transformer's.
    pub transformer: EchoGenConfig,
    /// The text encoder's.
    pub text_encoder: T5Config,
    /// The visual tokenizer's.
    pub tokenizer: TokenizerConfig,
    /// The schedules of the pixel budgets that the bundle offers.
    pub schedules: Schedules,
    /// For each of these budgets, by name, the side in pixels at which a subject is encoded.
    pub subject_sides: BTreeMap<String, usize>,
}

/// Numbers of tokens of a subject that is encoded at some resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectTokens {
    /// Content tokens, K: cells of the autoencoder's latent.
    pub content: usize,
    /// Semantic patches, S, without the global token.
    pub patches: usize,
}

impl SubjectTokens {
    /// Returns the numbers for a side in pixels: cells of 8 pixels, and patches of 14 in 7/8 of them.
    pub fn of_side(side: usize) -> Self {
        Self { content: (side / 8).pow(2), patches: (side / 16).pow(2) }
    }
}

impl Sizes {
    /// Reads and checks the sizes.
    ///
    /// # Errors
    ///
    /// A field is missing, unknown or of a wrong type, or two of them do not fit each other.
    pub fn of(bundle: &Bundle) -> Result<Self, BundleError> {
        let wrong = |network, reason| BundleError::Config { bundle: bundle.name().to_owned(), network, reason };
        let fields: BTreeMap<String, IgnoredAny> = bundle.config(Network::Transformer)?;
        EchoGenConfig::check_names(fields.keys()).map_err(|reason| wrong(Network::Transformer, reason))?;
        let transformer: EchoGenConfig = bundle.config(Network::Transformer)?;
        transformer.validate().map_err(|reason| wrong(Network::Transformer, reason))?;
        let sides = bundle.manifest().sampling.subject_resolution.iter();
        let sizes = Self {
            transformer,
            text_encoder: bundle.config(Network::TextEncoder)?,
            tokenizer: bundle.config(Network::VisualTokenizer)?,
            schedules: Schedules::of(bundle)?,
            subject_sides: sides.map(|(budget, side)| (budget.to_string(), *side as usize)).collect(),
        };
        sizes.check_text_encoder().map_err(|reason| wrong(Network::TextEncoder, reason))?;
        sizes.check_tokenizer().map_err(|reason| wrong(Network::VisualTokenizer, reason))?;
        sizes.check_neighbours(bundle).map_err(|reason| wrong(Network::Transformer, reason))?;
        sizes.check_tables().map_err(|reason| wrong(Network::Transformer, reason))?;
        Ok(sizes)
    }

    /// Returns the number of tokens of a subject of that budget.
    pub fn subject(&self, budget: &str) -> SubjectTokens {
        SubjectTokens::of_side(self.subject_sides.get(budget).copied().unwrap_or_default())
    }

    fn check_text_encoder(&self) -> Result<(), String> {
        let size = &self.text_encoder;
        check_sizes([
            ("vocab_size", size.vocab_size),
            ("d_model", size.d_model),
            ("d_kv", size.d_kv),
            ("d_ff", size.d_ff),
            ("num_layers", size.num_layers),
            ("num_heads", size.num_heads),
            ("relative_attention_num_buckets", size.relative_attention_num_buckets),
        ])
    }

    fn check_tokenizer(&self) -> Result<(), String> {
        let size = &self.tokenizer;
        let multipliers = || size.multipliers.iter().chain(size.decoder_multipliers.iter().flatten());
        let widest = multipliers().max().copied().unwrap_or_default().saturating_mul(size.channels);
        let (encoder, levels) = (size.multipliers.len(), size.decoder_multipliers().len());
        if levels < encoder {
            return Err(format!(
                "decoder_multipliers has {levels} levels and multipliers {encoder}; give at least as many"
            ));
        }
        if !(1..=MAX_LEVELS).contains(&levels) {
            return Err(format!("multipliers has {levels} levels; give 1 to {MAX_LEVELS}"));
        }
        check_sizes([("bits", size.bits), ("channels times multipliers", widest), ("res_blocks", size.res_blocks)])
    }

    /// Checks that each network takes what its neighbour gives.
    fn check_neighbours(&self, bundle: &Bundle) -> Result<(), String> {
        let size = &self.transformer;
        let equal = |field: &str, own: usize, other: &str, theirs: usize| match own == theirs {
            true => Ok(()),
            false => Err(format!("{field} is {own} and {other} {theirs}; make them equal")),
        };
        equal("text_channels", size.text_channels, "text_encoder.config.d_model", self.text_encoder.d_model)?;
        equal("bits", size.bits, "visual_tokenizer.config.bits", self.tokenizer.bits)?;
        // The encoders may be on another machine, and so their files.
        if let Ok(dinov2) = bundle.config::<Dinov2Config>(Network::Dinov2) {
            equal("semantic_dim", size.semantic_dim, "dinov2.config.hidden_size", dinov2.hidden_size)?;
        }
        if let Ok(vae) = bundle.config::<FluxVaeConfig>(Network::FluxVae) {
            equal("content_dim", size.content_dim, "the latent channels of flux_vae", vae.latent_channels)?;
        }
        Ok(())
    }

    /// Checks that the learned tables have a row for every scale and for every token of a subject.
    fn check_tables(&self) -> Result<(), String> {
        let size = &self.transformer;
        for budget in self.schedules.budgets() {
            let scales = self.schedules.scales(budget).unwrap_or_default();
            if scales > size.levels {
                let levels = size.levels;
                return Err(format!(
                    "levels is {levels} and schedule.budgets.{budget:?} {scales}; give at least {scales} levels"
                ));
            }
            let side = self.subject_sides.get(budget).copied().unwrap_or_default();
            let SubjectTokens { content, patches } = SubjectTokens::of_side(side);
            for (field, has, needs) in
                [("content_len", size.content_len, content), ("semantic_len", size.semantic_len, patches + 1)]
            {
                if has < needs {
                    return Err(format!(
                        "{field} is {has}, and a subject of {side} pixels (sampling.subject_resolution.{budget:?}) has {needs} \
                         tokens; give at least {needs}, or a smaller resolution"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl EchoGenConfig {
    /// Checks that every field is known: an absent one takes the 125M model's value, so a misspelt one would too.
    fn check_names<'a>(names: impl Iterator<Item = &'a String>) -> Result<(), String> {
        let known = serde_json::to_value(Self::default()).map_err(|error| error.to_string())?;
        let known: BTreeSet<&str> = known.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let mut names = names.map(String::as_str);
        match names.find(|name| !known.contains(name)) {
            Some(name) => {
                let known = known.into_iter().collect::<Vec<_>>().join(", ");
                Err(format!("unknown field {name:?}; known are {known}"))
            }
            None => Ok(()),
        }
    }
}
