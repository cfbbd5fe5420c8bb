//! Tests the repository's bundles: the mini bundle is complete and every network loads from it; the other bundle
//! describes the published files.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use echogen_checkpoint::Checkpoint;
use echogen_checkpoint::bundle::{Bundle, Network};
use echogen_models::dinov2::{Dinov2, Dinov2Config};
use echogen_models::echogen::{EchoGen, EchoGenConfig, is_ignored};
use echogen_models::flux_vae::{FluxVaeConfig, FluxVaeEncoder};
use echogen_models::plan::shapes;
use echogen_models::sizes::Sizes;
use echogen_models::t5::{T5Config, T5Encoder};
use echogen_models::visual_tokenizer::{TokenizerConfig, TokenizerDecoder, TokenizerEncoder};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn open(name: &str) -> Bundle {
    Bundle::open(&root().join("bundles").join(name)).unwrap()
}

/// Loads a network strictly: no tensor missing or unused.
fn load<T>(bundle: &Bundle, network: Network, build: impl FnOnce(VarBuilder<'static>) -> candle_core::Result<T>) -> T {
    let checkpoint = bundle.checkpoint(network).unwrap();
    checkpoint.load(DType::F32, &Device::Cpu, |_| false, build).unwrap()
}

fn stored(checkpoint: &Checkpoint) -> BTreeMap<String, Vec<usize>> {
    checkpoint.names().map(|name| (name.to_owned(), checkpoint.shape(name).unwrap().to_vec())).collect()
}

#[test]
fn every_file_of_the_mini_bundle_has_its_published_sum() {
    for result in open("mini").verify(&mut |_, _| {}) {
        result.unwrap();
    }
    let digests = open("mini");
    assert_eq!(digests.digests().unwrap().len(), 7);
}

#[test]
fn every_network_loads_strictly_from_the_mini_bundle() {
    let mini = open("mini");
    let t5: T5Config = mini.config(Network::TextEncoder).unwrap();
    load(&mini, Network::TextEncoder, |vb| T5Encoder::new(vb, &t5));
    let dinov2: Dinov2Config = mini.config(Network::Dinov2).unwrap();
    load(&mini, Network::Dinov2, |vb| Dinov2::new(vb, &dinov2));
    let vae: FluxVaeConfig = mini.config(Network::FluxVae).unwrap();
    load(&mini, Network::FluxVae, |vb| FluxVaeEncoder::new(vb, &vae));
    let tokenizer: TokenizerConfig = mini.config(Network::VisualTokenizer).unwrap();
    load(&mini, Network::VisualTokenizer, |vb| {
        TokenizerEncoder::new(vb.clone(), &tokenizer)?;
        TokenizerDecoder::new(vb, &tokenizer)
    });
    let echogen: EchoGenConfig = mini.config(Network::Transformer).unwrap();
    let checkpoint = mini.checkpoint(Network::Transformer).unwrap();
    let ignored = |name: &str| is_ignored(&echogen, name);
    checkpoint.load(DType::F32, &Device::Cpu, ignored, |vb| EchoGen::new(vb, &echogen, DType::F32)).unwrap();
    assert_eq!(stored(&mini.checkpoint(Network::Transformer).unwrap()), shapes::transformer(&echogen));
    assert_eq!(stored(&mini.checkpoint(Network::TextEncoder).unwrap()), shapes::text_encoder(&t5));
    let mut decoder = stored(&mini.checkpoint(Network::VisualTokenizer).unwrap());
    decoder.retain(|name, _| !TokenizerDecoder::ignores(name));
    let bare =
        |name: String| name.replace(".norm.", ".").replace(".conv.weight", ".weight").replace(".conv.bias", ".bias");
    let decoder: BTreeMap<_, _> = decoder.into_iter().map(|(name, shape)| (bare(name), shape)).collect();
    assert_eq!(decoder, shapes::tokenizer_decoder(&tokenizer));
    assert!(mini.tokenizer(Network::TextEncoder).unwrap().is_file());
}

#[test]
fn the_written_out_names_are_the_reference_models() {
    let fixture = root().join("tests/fixtures/echogen-tiny");
    let config = std::fs::read(fixture.join("config.json")).unwrap();
    let config: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&config).unwrap();
    let sizes: EchoGenConfig = serde_json::from_value(config["model"].clone()).unwrap();
    let reference = Checkpoint::open(&fixture.join("model.safetensors")).unwrap();
    assert_eq!(shapes::transformer(&sizes), stored(&reference));
}

#[test]
fn sizes_of_neighbouring_networks_agree() {
    for bundle in [open("mini"), open("echogen-2b.toml")] {
        let sizes = Sizes::of(&bundle).unwrap();
        let largest = sizes.subject_sides.values().max().copied().unwrap();
        let subject = echogen_models::sizes::SubjectTokens::of_side(largest);
        let transformer = &sizes.transformer;
        assert_eq!((transformer.content_len, transformer.semantic_len), (subject.content, subject.patches + 1));
    }
}

#[test]
fn the_published_bundle_names_a_source_for_every_file() {
    let bundle = open("echogen-2b.toml");
    assert_eq!(bundle.manifest().networks().count(), 8);
    for (network, table) in bundle.manifest().networks() {
        assert!(table.files.iter().all(|file| file.repository.is_some()), "{network}");
    }
    let sampling = &bundle.manifest().sampling;
    let script = (sampling.guidance_text, sampling.guidance_subject, sampling.temperature, sampling.top_p);
    assert_eq!(script, (2.5, 2.5, 2.0, 0.97));
    assert_eq!((sampling.top_k, sampling.seed, sampling.pixel_budget.as_str()), (900, 42, "1M"));
}
