//! Another size of EchoGen is another TOML file: one that no source file names is loaded, planned and sampled from.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use std::{
    collections::HashMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor};
use echogen_checkpoint::bundle::Bundle;
use echogen_models::{
    device::DeviceMemory,
    echogen::SamplingOptions,
    encoded_subject::EncodedSubject,
    generator::{Generator, ImageRequest},
    plan::{
        MemoryPlan, PlanRequest, SetLimits, Work,
        shapes::{self, Shapes},
    },
    random::CounterRng,
    sizes::Sizes,
};
use tempfile::TempDir;

/// A size with a depth, width, levels, pixel budgets, shapes and subjects of its own.
const MANIFEST: &str = r#"
name = "own"
description = "a size that nobody has published"
licence = "MIT"
[sampling]
guidance_text = 2.0
guidance_subject = 2.0
temperature = 1.0
top_k = 900
top_p = 0.97
seed = 1
pixel_budget = "0.001M"
height_to_width = 1.0
subject_resolution = { "0.0004M" = 32, "0.001M" = 48 }
[schedule]
budgets = { "0.0004M" = 3, "0.001M" = 4 }
[[schedule.shapes]]
height_to_width = 1.0
scales = [[1, 1], [2, 2], [5, 5], [8, 8]]
[[schedule.shapes]]
height_to_width = 1.6
scales = [[1, 1], [2, 2], [6, 4], [10, 6]]
[transformer.config]
depth = 3
dim = 64
heads = 4
block_chunks = 3
bits = 8
text_channels = 128
text_maxlen = 16
content_len = 36
content_dim = 4
semantic_len = 10
semantic_dim = 24
levels = 4
[text_encoder.config]
vocab_size = 512
d_model = 128
d_kv = 8
d_ff = 64
num_layers = 1
num_heads = 2
relative_attention_num_buckets = 8
relative_attention_max_distance = 16
feed_forward_proj = "gated-gelu"
[visual_tokenizer.config]
bits = 8
channels = 8
multipliers = [1, 2, 2]
res_blocks = 1
norm_groups = 4
[dinov2.config]
hidden_size = 24
[flux_vae.config]
latent_channels = 4
"#;

const NETWORKS: [&str; 5] = ["transformer", "text_encoder", "visual_tokenizer", "dinov2", "flux_vae"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A folder with a manifest, whose networks each have one file.
fn folder(manifest: &str) -> TempDir {
    let networks = NETWORKS.map(|name| {
        let tokenizer = if name == "text_encoder" { "tokenizer = \"tokenizer.json\"\n" } else { "" };
        let others = if tokenizer.is_empty() {
            ""
        } else {
            "[[text_encoder.files]]\npath = \"tokenizer.json\"\nlicence = \"MIT\"\n"
        };
        let weights = format!("weights = [\"{name}.safetensors\"]\n{tokenizer}");
        (name, weights, format!("[[{name}.files]]\npath = \"{name}.safetensors\"\nlicence = \"MIT\"\n{others}"))
    });
    let mut text = manifest.to_owned();
    for (name, weights, files) in networks {
        let config = format!("[{name}.config]");
        text = text.replace(&config, &format!("[{name}]\n{weights}{config}"));
        text.push_str(&files);
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bundle.toml"), text).unwrap();
    folder
}

/// Writes random weights of these shapes.
fn write_weights(path: &Path, shapes: &Shapes, seed: u64) {
    let tensors = shapes.iter().zip(seed..).map(|((name, shape), seed)| {
        let mut values = vec![0f32; shape.iter().product()];
        CounterRng::new(seed, 1).fill_normal(&mut values);
        values.iter_mut().for_each(|value| *value *= 0.2);
        (name.clone(), Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap())
    });
    candle_core::safetensors::save(&tensors.collect::<HashMap<_, _>>(), path).unwrap();
}

#[test]
fn a_size_of_its_own_is_loaded_from_its_file_and_sampled_from() {
    // Tokens of four pixels, since the tokenizer halves twice.
    sample_from(MANIFEST, 4);
}

#[test]
fn a_decoder_with_one_level_more_draws_pictures_twice_as_large() {
    let multipliers = "multipliers = [1, 2, 2]";
    sample_from(&MANIFEST.replace(multipliers, &format!("{multipliers}\ndecoder_multipliers = [1, 1, 2, 2]")), 8);
}

/// Loads a bundle with random weights and makes pictures of each of its shapes; a token is that many pixels wide.
fn sample_from(manifest: &str, token: usize) {
    let folder = folder(manifest);
    let bundle = Bundle::open(folder.path()).unwrap();
    let sizes = Sizes::of(&bundle).unwrap();
    let path = |name: &str| folder.path().join(name);
    write_weights(&path("transformer.safetensors"), &shapes::transformer(&sizes.transformer), 100);
    write_weights(&path("text_encoder.safetensors"), &shapes::text_encoder(&sizes.text_encoder), 1_000);
    write_weights(&path("visual_tokenizer.safetensors"), &shapes::tokenizer_decoder(&sizes.tokenizer), 2_000);
    fs::copy(repository().join("bundles/mini/tokenizer.json"), path("tokenizer.json")).unwrap();
    let generator = Generator::load(&bundle, &Device::Cpu, DType::F32, 1 << 20).unwrap();
    for (budget, ratio, (rows, columns)) in
        [("0.0004M", 1.0, (5, 5)), ("0.001M", 1.0, (8, 8)), ("0.001M", 1.5, (10, 6))]
    {
        let schedule = generator.schedules().nearest(ratio, budget).unwrap();
        let subject = EncodedSubject::blank(&sizes.transformer, sizes.subject_sides[budget]).unwrap();
        let subject = Arc::new(EncodedSubject::from_bytes(&subject.to_bytes().unwrap()).unwrap());
        let request = |seed| ImageRequest {
            prompt: "a mug".to_owned(),
            negative_prompt: None,
            subject: Arc::clone(&subject),
            seed,
            options: SamplingOptions::default(),
        };
        let pictures = generator.generate(&[request(1), request(2)], &schedule, |_, _| ControlFlow::Continue(()));
        let pictures = pictures.unwrap();
        let pixels = (rows * token, columns * token);
        assert_eq!(schedule.pixels(), pixels);
        assert_eq!((pictures[0].height() as usize, pictures[0].width() as usize), pixels);
        assert_ne!(pictures[0], pictures[1]);
    }
    let error = generator.schedules().nearest(1.0, "1M").unwrap_err().to_string();
    assert_eq!(error, "the bundle makes no pictures of 1M pixels; it offers 0.0004M, 0.001M");
    let plan = MemoryPlan::new(&PlanRequest {
        bundle: &bundle,
        is_cpu: false,
        work: Work::of(false, DType::BF16),
        converted: None,
        memory: Some(DeviceMemory::described(4 << 30)),
        max_batch: 16,
        subject_cache_bytes: 0,
        set: SetLimits::default(),
    });
    let plan = plan.unwrap();
    assert_eq!(
        plan.budgets.iter().map(|budget| (budget.width, budget.pictures)).collect::<Vec<_>>(),
        [(5 * token, 16), (8 * token, 16)]
    );
}

#[test]
fn a_mistake_is_named_with_its_field_and_what_to_change() {
    let cases = [
        ("depth = 3", "dept = 3", "unknown field \"dept\"; known are bits, block_chunks"),
        ("depth = 3", "depth = 999999999999", "depth is 999999999999; give at most 4096"),
        ("num_layers = 1", "num_layers = 99999999", "num_layers is 99999999; give at most 4096"),
        ("bits = 8\nchannels = 8", "bits = 0\nchannels = 8", "bits is 8 and visual_tokenizer.config.bits 0"),
        ("levels = 4", "levels = 0", "levels is 0; give at least 1"),
        ("heads = 4", "heads = 5", "dim 64 over 5 heads"),
        ("block_chunks = 3", "block_chunks = 2", "depth 3 does not divide into 2 chunks"),
        ("levels = 4", "levels = 3", "levels is 3 and schedule.budgets.\"0.001M\" 4; give at least 4 levels"),
        ("content_len = 36", "content_len = 35", "content_len is 35, and a subject of 48 pixels"),
        ("semantic_len = 10", "semantic_len = 9", "has 10 tokens; give at least 10, or a smaller resolution"),
        ("text_channels = 128", "text_channels = 256", "text_channels is 256 and text_encoder.config.d_model 128"),
        (
            "semantic_dim = 24",
            "semantic_dim = 25",
            "semantic_dim is 25 and dinov2.config.hidden_size 24; make them equal",
        ),
        ("channels = 8\nmultipliers", "channels = 8\nmultiplier", "architecture of visual_tokenizer"),
        (
            "res_blocks = 1\nnorm_groups = 4",
            "res_blocks = 1\nnorm_groups = 4\ndecoder_multipliers = [1, 2]",
            "decoder_multipliers has 2 levels and multipliers 3; give at least as many",
        ),
    ];
    for (from, to, expected) in cases {
        assert!(MANIFEST.contains(from), "{from}");
        let folder = folder(&MANIFEST.replacen(from, to, 1));
        let error = Sizes::of(&Bundle::open(folder.path()).unwrap()).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error:?} lacks {expected:?}");
    }
}
