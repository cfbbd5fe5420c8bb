//! Renders training data or a contact sheet.
//!
//! `render --out DIR --count N [--size 64] [--seed S] [--held-out]` writes shards of pairs: a reference (the subject
//! cut out of a picture, or alone on white) and a target (the same subject in another scene) with the target's
//! caption. A shard is a `.safetensors` file of pixels and labels and a `.jsonl` file of captions. `render --sheet
//! FILE.png` draws a contact sheet instead: one subject per row, its reference first. `render --pictures DIR --count
//! N` writes pairs as PNG files, for trying the program on them.

use std::{
    collections::BTreeMap,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Parser;
use echogen_world::{Bounds, Identity, Picture, Scene, View, caption, split};
use safetensors::{Dtype, serialize_to_file, tensor::TensorView};

/// Pairs per shard: about 50 MB at 64 pixels.
const SHARD: usize = 2_048;

#[derive(Parser)]
#[command(about = "Renders pictures of the small world")]
struct Arguments {
    /// Folder for shards.
    #[arg(long)]
    out: Option<PathBuf>,
    /// How many pairs.
    #[arg(long, default_value_t = SHARD)]
    count: usize,
    /// Pixels on a side.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Pairs of another seed share no identity and no view.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Take identities that training never sees, and views in any scene.
    #[arg(long)]
    held_out: bool,
    /// Folder for pairs as PNG files, with their captions in `captions.txt`.
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Draw this contact sheet.
    #[arg(long)]
    sheet: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(path) = &arguments.sheet {
        sheet(&arguments, path)?;
    }
    if let Some(folder) = &arguments.pictures {
        pictures(&arguments, folder)?;
    }
    let Some(folder) = &arguments.out else { return Ok(()) };
    std::fs::create_dir_all(folder)?;
    for (index, start) in (0..arguments.count).step_by(SHARD).enumerate() {
        let pairs = start..(start + SHARD).min(arguments.count);
        let name = format!("shard-{:03}-{index:05}", arguments.seed);
        write_shard(&arguments, pairs.map(|number| Pair::new(&arguments, number as u64)), folder, &name)?;
    }
    Ok(())
}

/// A reference and a target picture of one subject.
struct Pair {
    identity: Identity,
    reference_view: View,
    reference: Picture,
    view: View,
    target: Picture,
    caption: String,
}

impl Pair {
    fn new(arguments: &Arguments, index: u64) -> Self {
        let number = (arguments.seed << 24) + index;
        let first = if arguments.held_out { split::HELD_OUT_IDENTITIES.start } else { 0 };
        let identity = Identity::new(first + number);
        let view = |number: u64| match arguments.held_out {
            true => View::new(number, Scene::ALL[(number / 24) as usize % Scene::ALL.len()]),
            false => View::for_training(number, identity.kind),
        };
        let (reference_view, view) = (view(2 * (first + number)), view(2 * (first + number) + 1));
        let reference = match index % 2 {
            0 => Picture::render(&identity, &reference_view, arguments.size).cutout(),
            _ => Picture::alone(&identity, &reference_view, arguments.size),
        };
        let target = Picture::render(&identity, &view, arguments.size);
        let caption = caption(view.number, identity.kind, view.scene, view.light);
        Self { identity, reference_view, reference, view, target, caption }
    }
}

fn write_shard(arguments: &Arguments, pairs: impl Iterator<Item = Pair>, folder: &Path, name: &str) -> Result<()> {
    let mut columns: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let mut captions = BufWriter::new(std::fs::File::create(folder.join(format!("{name}.jsonl")))?);
    let mut count = 0;
    for pair in pairs {
        let mut add = |column, bytes: &[u8]| columns.entry(column).or_default().extend_from_slice(bytes);
        add("reference", &pair.reference.pixels);
        add("target", &pair.target.pixels);
        add("reference_box", &bounds(pair.reference.bounds));
        add("target_box", &bounds(pair.target.bounds));
        let look = &pair.identity;
        add("attributes", &[look.kind.index() as u8, look.pattern.index() as u8, look.emblem.index() as u8]);
        add("place", &[pair.view.scene.index() as u8, pair.view.light.index() as u8]);
        add("reference_place", &[pair.reference_view.scene.index() as u8, pair.reference_view.light.index() as u8]);
        for part in look.palette.iter().flat_map(|colour| colour.0) {
            add("palette", &part.to_le_bytes());
        }
        add("identity", &(look.number as i64).to_le_bytes());
        writeln!(captions, "{}", serde_json::to_string(&pair.caption)?)?;
        count += 1;
    }
    captions.flush()?;
    let side = arguments.size;
    let mut views = Vec::new();
    for (column, bytes) in &columns {
        let (dtype, shape) = match *column {
            "reference" | "target" => (Dtype::U8, vec![count, side, side, 3]),
            "reference_box" | "target_box" => (Dtype::I32, vec![count, 4]),
            "palette" => (Dtype::F32, vec![count, 3, 3]),
            "identity" => (Dtype::I64, vec![count]),
            _ => (Dtype::U8, vec![count, bytes.len() / count]),
        };
        views.push((*column, TensorView::new(dtype, shape, bytes)?));
    }
    let path = folder.join(format!("{name}.safetensors"));
    serialize_to_file(views, None, &path).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns left, top, right, bottom.
fn bounds(bounds: Bounds) -> Vec<u8> {
    let Bounds { left, top, right, bottom } = bounds;
    [left, top, right, bottom].iter().flat_map(|edge| (*edge as i32).to_le_bytes()).collect()
}

/// Writes `reference-N.png` and `target-N.png`, and one caption line for each pair.
fn pictures(arguments: &Arguments, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut captions = String::new();
    for number in 0..arguments.count {
        let pair = Pair::new(arguments, number as u64);
        captions.push_str(&format!("{}\n", pair.caption));
        for (name, picture) in [("reference", pair.reference), ("target", pair.target)] {
            image_of(picture)?.save(folder.join(format!("{name}-{number}.png")))?;
        }
    }
    Ok(std::fs::write(folder.join("captions.txt"), captions)?)
}

fn image_of(picture: Picture) -> Result<image::RgbImage> {
    let side = picture.size as u32;
    image::RgbImage::from_raw(side, side, picture.pixels).context("a picture has its size")
}

/// Draws the contact sheet: one subject per row, its reference first, then views of it in the twelve scenes.
fn sheet(arguments: &Arguments, path: &Path) -> Result<()> {
    let side = arguments.size as u32;
    let (rows, columns) = (12, 1 + Scene::ALL.len() as u32);
    let mut sheet = image::RgbImage::from_pixel(columns * (side + 2), rows * (side + 2), image::Rgb([255; 3]));
    for row in 0..rows {
        let identity = Identity::new((arguments.seed << 24) + u64::from(row));
        for column in 0..columns {
            let number = (arguments.seed << 24) + u64::from(row * columns + column);
            let picture = match column.checked_sub(1) {
                None => Picture::alone(&identity, &View::new(number, Scene::Moon), arguments.size),
                Some(scene) => {
                    Picture::render(&identity, &View::new(number, Scene::ALL[scene as usize]), arguments.size)
                }
            };
            let tile = image_of(picture)?;
            let (x, y) = (column * (side + 2), row * (side + 2));
            image::imageops::replace(&mut sheet, &tile, i64::from(x), i64::from(y));
        }
    }
    sheet.save(path).with_context(|| format!("cannot write {}", path.display()))
}
