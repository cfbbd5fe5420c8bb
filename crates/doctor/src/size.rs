//! Sizes of the networks whose weights are drawn, and the work of a picture by arithmetic.

use std::{fmt, str::FromStr};

use echogen_checkpoint::bundle::ScheduleTable;
use echogen_models::{
    echogen::{EchoGenConfig, Schedule, ScheduleError, Schedules},
    t5::{FeedForwardProjection, T5Config},
    visual_tokenizer::TokenizerConfig,
};

/// A size of the networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Size {
    /// That of the mini bundle, for pictures of 128 x 128.
    #[default]
    Tiny,
    /// The published 125M transformer, at 512 x 512.
    M125,
    /// The published 2B transformer, at 1024 x 1024.
    B2,
}

/// A word that names no size.
#[derive(Debug)]
pub struct UnknownSize(String);

impl fmt::Display for UnknownSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no size; give tiny, 125m or 2b", self.0)
    }
}

impl std::error::Error for UnknownSize {}

impl FromStr for Size {
    type Err = UnknownSize;

    fn from_str(text: &str) -> Result<Self, UnknownSize> {
        match text {
            "tiny" => Ok(Self::Tiny),
            "125m" => Ok(Self::M125),
            "2b" => Ok(Self::B2),
            _ => Err(UnknownSize(text.to_owned())),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tiny => "tiny",
            Self::M125 => "125m",
            Self::B2 => "2b",
        })
    }
}

impl Size {
    /// Returns the transformer.
    pub(crate) fn transformer(self) -> EchoGenConfig {
        match self {
            Self::Tiny => EchoGenConfig {
                depth: 6,
                dim: 128,
                heads: 4,
                block_chunks: 2,
                bits: 32,
                text_channels: 128,
                text_maxlen: 64,
                content_len: 64,
                semantic_len: 17,
                semantic_dim: 128,
                ..EchoGenConfig::layer12()
            },
            Self::M125 => EchoGenConfig::layer12(),
            Self::B2 => EchoGenConfig::echogen_2b(),
        }
    }

    /// Returns the text encoder.
    pub(crate) fn text_encoder(self) -> T5Config {
        match self {
            Self::Tiny => T5Config {
                vocab_size: 512,
                d_model: 128,
                d_kv: 32,
                d_ff: 256,
                num_layers: 3,
                num_heads: 4,
                feed_forward_proj: FeedForwardProjection::GatedGelu,
                ..T5Config::default()
            },
            Self::M125 | Self::B2 => T5Config::flan_t5_xl(),
        }
    }

    /// Returns the visual tokenizer.
    pub(crate) fn tokenizer(self) -> TokenizerConfig {
        let published = TokenizerConfig::published(self.transformer().bits);
        match self {
            Self::Tiny => TokenizerConfig {
                channels: 16,
                multipliers: vec![1, 2, 4, 6],
                decoder_multipliers: Some(vec![2, 2, 4, 6, 8]),
                res_blocks: 1,
                norm_groups: 8,
                ..published
            },
            Self::M125 | Self::B2 => published,
        }
    }

    /// Returns the schedule of its pictures.
    pub(crate) fn schedule(self) -> Result<Schedule, ScheduleError> {
        let budget = match self {
            Self::Tiny => "0.004M",
            Self::M125 => "0.25M",
            Self::B2 => "1M",
        };
        Schedules::new(&ScheduleTable::default(), self.tokenizer().patch_size()).nearest(1.0, budget)
    }
}

/// FLOP of the transformer for one picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Of the conditions of one guidance row.
    pub(crate) conditions: f64,
    /// Of one guidance row at each scale.
    pub(crate) scales: [f64; 13],
}

impl Work {
    /// Counts the products and the attention; a multiplication and an addition are two.
    pub(crate) fn of(config: &EchoGenConfig, schedule: &Schedule, words: usize) -> Self {
        let (c, hidden, depth) = (config.dim as f64, config.hidden() as f64, config.depth as f64);
        let (content, patches, words) = (config.content_len as f64, config.semantic_len as f64 - 1.0, words as f64);
        // Queries, keys, values, projection; the subject's projection; queries and projection of the words; the MLP.
        let image_products = 2.0 * (7.0 * c * c + 2.0 * c * hidden);
        let content_products = 2.0 * (6.0 * c * c + 2.0 * c * hidden);
        let content_attention = 4.0 * c * (content + words);
        let mut scales = [0.0; 13];
        for (index, work) in scales.iter_mut().enumerate().take(schedule.scales().len()) {
            let positions = schedule.positions(index);
            let keys = positions.end as f64 + content + patches + words;
            *work = positions.len() as f64 * depth * (image_products + 4.0 * c * keys);
        }
        // The last block only takes keys and values of the content.
        let last = content * 4.0 * c * c;
        let conditions = content * (depth - 1.0) * (content_products + content_attention) + last;
        Self { conditions, scales }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_names() {
        for size in [Size::Tiny, Size::M125, Size::B2] {
            assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
            size.transformer().validate().unwrap();
            assert_eq!(size.transformer().text_channels, size.text_encoder().d_model);
            let schedule = size.schedule().unwrap();
            assert_eq!(schedule.pixels().0 / schedule.last().0, size.tokenizer().patch_size());
        }
        assert!("7b".parse::<Size>().unwrap_err().to_string().contains("125m or 2b"));
    }

    /// From the published sizes: 149 TFLOP for two rows, 19 for the content of one.
    #[test]
    fn the_work_of_a_picture_is_the_known_one() {
        let work = Work::of(&EchoGenConfig::echogen_2b(), &Size::B2.schedule().unwrap(), 20);
        let rows = 2.0 * work.scales.iter().sum::<f64>() / 1e12;
        assert!((rows - 149.0).abs() < 4.0, "{rows}");
        assert!((work.conditions / 1e12 - 19.0).abs() < 1.0, "{}", work.conditions / 1e12);
        let last: f64 = work.scales[10..].iter().sum();
        assert!(last / work.scales.iter().sum::<f64>() > 0.7, "the last three scales are most of it");
    }
}
