//! The tensors of EchoGen's transformer in the published checkpoint, including buffers.
//!
//! Listed explicitly, not requested from the network: the last block of a checkpoint contains unused weights, which
//! the network never requests.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The configuration values that determine shapes.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct TransformerSizes {
    pub(crate) depth: usize,
    pub(crate) dim: usize,
    pub(crate) heads: usize,
    pub(crate) block_chunks: usize,
    pub(crate) bits: usize,
    pub(crate) text_channels: usize,
    pub(crate) text_maxlen: usize,
    pub(crate) content_len: usize,
    pub(crate) content_dim: usize,
    pub(crate) semantic_len: usize,
    pub(crate) semantic_dim: usize,
    pub(crate) mlp_ratio: f64,
    pub(crate) levels: usize,
}

/// Collects tensor names below a prefix.
struct Names<'a> {
    shapes: &'a mut BTreeMap<String, Vec<usize>>,
    prefix: String,
}

impl Names<'_> {
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.shapes.insert(format!("{}{name}", self.prefix), shape.to_vec());
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.add(&format!("{name}.weight"), &[outputs, inputs]);
        self.add(&format!("{name}.bias"), &[outputs]);
    }
}

/// Returns every tensor's name and shape.
pub(crate) fn transformer_shapes(sizes: &TransformerSizes) -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::new();
    let mut names = Names { shapes: &mut shapes, prefix: String::new() };
    conditions(&mut names, sizes);
    let chunk_depth = sizes.depth / sizes.block_chunks;
    for index in 0..sizes.depth {
        names.prefix = match sizes.block_chunks {
            1 => format!("blocks.{index}."),
            _ => format!("block_chunks.{}.module.{}.", index / chunk_depth, index % chunk_depth),
        };
        block(&mut names, sizes);
    }
    shapes
}

fn conditions(names: &mut Names, sizes: &TransformerSizes) {
    let (c, text, semantic) = (sizes.dim, sizes.text_channels, sizes.semantic_dim);
    let pool_heads = text / 128;
    names.add("cfg_uncond", &[sizes.text_maxlen, text]);
    names.add("control_features_uncond", &[sizes.semantic_len, semantic]);
    names.add("control_features_refer_uncond", &[sizes.content_len, sizes.content_dim]);
    names.add("text_norm.weight", &[text]);
    names.add("text_proj_for_sos.ca.mat_q", &[1, pool_heads, c / pool_heads]);
    names.add("text_proj_for_sos.ca.mat_kv.weight", &[2 * c, text]);
    names.add("text_proj_for_sos.ca.v_bias", &[c]);
    names.add("text_proj_for_sos.ca.zero_k_bias", &[c]);
    names.linear("text_proj_for_sos.ca.proj", c, c);
    let projections = [
        ("text_proj_for_ca", text),
        ("control_proj_for_ca", semantic),
        ("control_proj_for_ca_refer", sizes.content_dim),
    ];
    for (name, inputs) in projections {
        names.linear(&format!("{name}.0"), inputs, c);
        names.linear(&format!("{name}.2"), c, c);
    }
    names.linear("control_proj_for_sos", semantic, c);
    names.add("pos_start", &[1, 1, c]);
    names.add("control_pos_start", &[1, 1, c]);
    names.add("lvl_embed.weight", &[sizes.levels, c]);
    names.linear("word_embed", sizes.bits, c);
    for part in ["shared", "control_shared"] {
        names.linear(&format!("{part}_ada_lin.1"), c, 6 * c);
    }
    for part in ["refer", "refer_dino"] {
        names.linear(&format!("control_shared_ada_lin_{part}.1"), c, 6 * c);
    }
    names.linear("head_nm.ada_lin.1", c, 2 * c);
    names.linear("head", c, 2 * sizes.bits);
}

fn block(names: &mut Names, sizes: &TransformerSizes) {
    let c = sizes.dim;
    let hidden = (c as f64 * sizes.mlp_ratio / 256.0).round_ties_even() as usize * 256;
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
        names.add(name, &[1, sizes.heads, 1, 1]);
    }
    names.linear("sa.proj", c, c);
    names.linear("sa.control_proj", c, c);
    for name in ["ca", "control_ca"] {
        names.linear(&format!("{name}.mat_q"), c, c);
        names.add(&format!("{name}.mat_kv.weight"), &[2 * c, c]);
        names.add(&format!("{name}.v_bias"), &[c]);
        names.add(&format!("{name}.zero_k_bias"), &[c]);
        names.linear(&format!("{name}.proj"), c, c);
        names.add(&format!("{name}_norm.weight"), &[c]);
        names.add(&format!("{name}_norm.bias"), &[c]);
    }
    names.add("ca.control_mat_kv.weight", &[2 * c, c]);
    names.add("ca.control_v_bias", &[c]);
    for name in ["ffn", "control_ffn"] {
        names.linear(&format!("{name}.fc1"), c, hidden);
        names.linear(&format!("{name}.fc2"), hidden, c);
    }
}
