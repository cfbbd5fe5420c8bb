//! The tensors of the networks that sample, by name and shape, from their sizes alone: what a checkpoint of that size has.
//!
//! Listed explicitly, not requested from the networks: so a size can be planned whose weights would not fit into this
//! machine's memory. Tests compare the lists with the reference's files.

use std::collections::BTreeMap;

use crate::{
    echogen::EchoGenConfig,
    t5::{FeedForwardProjection, T5Config},
    visual_tokenizer::TokenizerConfig,
};

/// Names and shapes.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Collects tensor names below a prefix.
#[derive(Default)]
struct Names {
    shapes: Shapes,
    prefix: String,
}

impl Names {
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.shapes.insert(format!("{}{name}", self.prefix), shape.to_vec());
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.add(&format!("{name}.weight"), &[outputs, inputs]);
        self.add(&format!("{name}.bias"), &[outputs]);
    }

    fn conv(&mut self, name: &str, inputs: usize, outputs: usize, kernel: usize) {
        self.add(&format!("{name}.weight"), &[outputs, inputs, kernel, kernel]);
        self.add(&format!("{name}.bias"), &[outputs]);
    }

    fn norm(&mut self, name: &str, channels: usize) {
        self.add(&format!("{name}.weight"), &[channels]);
        self.add(&format!("{name}.bias"), &[channels]);
    }
}

/// Returns the tensors of a transformer, including buffers and the unused ones of its last block.
pub fn transformer(config: &EchoGenConfig) -> Shapes {
    let mut names = Names::default();
    conditions(&mut names, config);
    for index in 0..config.depth {
        names.prefix = format!("{}.", config.block_prefix(index));
        block(&mut names, config);
    }
    names.shapes
}

fn conditions(names: &mut Names, config: &EchoGenConfig) {
    let (c, text, semantic) = (config.dim, config.text_channels, config.semantic_dim);
    let pool_heads = config.pool_heads().max(1);
    names.add("cfg_uncond", &[config.text_maxlen, text]);
    names.add("control_features_uncond", &[config.semantic_len, semantic]);
    names.add("control_features_refer_uncond", &[config.content_len, config.content_dim]);
    names.add("text_norm.weight", &[text]);
    names.add("text_proj_for_sos.ca.mat_q", &[1, pool_heads, c / pool_heads]);
    names.add("text_proj_for_sos.ca.mat_kv.weight", &[2 * c, text]);
    names.add("text_proj_for_sos.ca.v_bias", &[c]);
    names.add("text_proj_for_sos.ca.zero_k_bias", &[c]);
    names.linear("text_proj_for_sos.ca.proj", c, c);
    let projections = [
        ("text_proj_for_ca", text),
        ("control_proj_for_ca", semantic),
        ("control_proj_for_ca_refer", config.content_dim),
    ];
    for (name, inputs) in projections {
        names.linear(&format!("{name}.0"), inputs, c);
        names.linear(&format!("{name}.2"), c, c);
    }
    names.linear("control_proj_for_sos", semantic, c);
    names.add("pos_start", &[1, 1, c]);
    names.add("control_pos_start", &[1, 1, c]);
    names.add("lvl_embed.weight", &[config.levels, c]);
    names.linear("word_embed", config.bits, c);
    for part in ["shared_ada_lin", "control_shared_ada_lin"] {
        names.linear(&format!("{part}.1"), c, 6 * c);
    }
    for part in ["refer", "refer_dino"] {
        names.linear(&format!("control_shared_ada_lin_{part}.1"), c, 6 * c);
    }
    names.linear("head_nm.ada_lin.1", c, 2 * c);
    names.linear("head", c, 2 * config.bits);
}

fn block(names: &mut Names, config: &EchoGenConfig) {
    let (c, hidden) = (config.dim, config.hidden());
    for name in ["ada_gss", "control_ada_gss"] {
        names.add(name, &[1, 1, 6, c]);
    }
    names.add("sa.mat_qkv.weight", &[3 * c, c]);
    names.add("sa.control_mat_q.weight", &[c, c]);
    names.add("sa.control_mat_kv.weight", &[2 * c, c]);
    names.add("sa.control_attn.weight", &[c, c]);
    for name in ["q_bias", "v_bias", "zero_k_bias", "control_q_bias", "control_v_bias", "control_zero_k_bias"] {
        names.add(&format!("sa.{name}"), &[c]);
    }
    for name in ["sa.scale_mul_1H11", "sa.control_scale_mul_1H11"] {
        names.add(name, &[1, config.heads, 1, 1]);
    }
    names.linear("sa.proj", c, c);
    names.linear("sa.control_proj", c, c);
    for name in ["ca", "control_ca"] {
        names.linear(&format!("{name}.mat_q"), c, c);
        names.add(&format!("{name}.mat_kv.weight"), &[2 * c, c]);
        names.add(&format!("{name}.v_bias"), &[c]);
        names.add(&format!("{name}.zero_k_bias"), &[c]);
        names.linear(&format!("{name}.proj"), c, c);
        names.norm(&format!("{name}_norm"), c);
    }
    names.add("ca.control_mat_kv.weight", &[2 * c, c]);
    names.add("ca.control_v_bias", &[c]);
    for name in ["ffn", "control_ffn"] {
        names.linear(&format!("{name}.fc1"), c, hidden);
        names.linear(&format!("{name}.fc2"), hidden, c);
    }
}

/// Returns the tensors of a T5 encoder.
pub fn text_encoder(config: &T5Config) -> Shapes {
    let (width, inner) = (config.d_model, config.num_heads * config.d_kv);
    let mut names = Names::default();
    names.add("shared.weight", &[config.vocab_size, width]);
    names.add("encoder.final_layer_norm.weight", &[width]);
    let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    names.add(bias, &[config.relative_attention_num_buckets, config.num_heads]);
    let inputs: &[&str] = match config.feed_forward_proj {
        FeedForwardProjection::Relu => &["wi"],
        FeedForwardProjection::GatedGelu => &["wi_0", "wi_1"],
    };
    for index in 0..config.num_layers {
        names.prefix = format!("encoder.block.{index}.layer.");
        for name in ["q", "k", "v"] {
            names.add(&format!("0.SelfAttention.{name}.weight"), &[inner, width]);
        }
        names.add("0.SelfAttention.o.weight", &[width, inner]);
        names.add("0.layer_norm.weight", &[width]);
        for name in inputs {
            names.add(&format!("1.DenseReluDense.{name}.weight"), &[config.d_ff, width]);
        }
        names.add("1.DenseReluDense.wo.weight", &[width, config.d_ff]);
        names.add("1.layer_norm.weight", &[width]);
    }
    names.shapes
}

/// Returns the tensors of a visual tokenizer's decoder, under the names without wrappers.
pub fn tokenizer_decoder(config: &TokenizerConfig) -> Shapes {
    let mut names = Names { prefix: "decoder.".to_owned(), ..Names::default() };
    let widths = decoder_widths(config);
    let mut width = widths.last().copied().unwrap_or_default();
    names.conv("conv_in", config.bits, width, 3);
    for index in [1, 2] {
        residual(&mut names, &format!("mid.block_{index}"), width, width);
    }
    for (level, target) in widths.iter().copied().enumerate().rev() {
        for index in 0..=config.res_blocks {
            residual(&mut names, &format!("up.{level}.block.{index}"), width, target);
            width = target;
        }
        if level > 0 {
            names.conv(&format!("up.{level}.upsample.conv"), target, target, 3);
        }
    }
    names.norm("norm_out", width);
    names.conv("conv_out", width, 3, 3);
    names.shapes
}

/// Returns the width of each level of the decoder, full resolution first.
pub(super) fn decoder_widths(config: &TokenizerConfig) -> Vec<usize> {
    config.decoder_multipliers().iter().map(|factor| factor * config.channels).collect()
}

fn residual(names: &mut Names, name: &str, inputs: usize, outputs: usize) {
    names.norm(&format!("{name}.norm1"), inputs);
    names.conv(&format!("{name}.conv1"), inputs, outputs, 3);
    names.norm(&format!("{name}.norm2"), outputs);
    names.conv(&format!("{name}.conv2"), outputs, outputs, 3);
    if inputs != outputs {
        names.conv(&format!("{name}.nin_shortcut"), inputs, outputs, 1);
    }
}
