//! The schema of a bundle's TOML file. Unknown fields are rejected, so a misspelt field is not silently a default.

use super::schedule::ScheduleTable;
use echogen_protocol::PixelBudget;
use echogen_protocol::text::{one_line, quoted};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

/// Maximum length of a bundle's name in bytes: it names a file.
const MAX_NAME_BYTES: usize = 128;
/// Maximum length in bytes of each text that describes a file.
const MAX_TEXT_BYTES: usize = 255;

/// A subject's side is a multiple of this many pixels: DINOv2 sees 7/8 of them in patches of 14, the autoencoder cells of 8.
const SUBJECT_STEP: u32 = 16;
/// Greatest side of a subject in pixels. The published maximum is 512; features grow with the square.
const MAX_SUBJECT_SIDE: u32 = 1_024;

/// Whether subjects can be encoded at that many pixels along a side.
pub fn is_subject_side(side: u32) -> bool {
    (1..=MAX_SUBJECT_SIDE).contains(&side) && side.is_multiple_of(SUBJECT_STEP)
}

/// A bundle's manifest: description, sampling defaults and networks.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the bundle on the command line.
    pub name: String,
    /// Description in one or two sentences.
    pub description: String,
    /// Licence or licences of the bundle as a whole.
    pub licence: String,
    /// Defaults for jobs that do not set their own parameters.
    pub sampling: SamplingDefaults,
    /// Sizes of pictures, and the scales at which they are sampled.
    #[serde(default, skip_serializing_if = "ScheduleTable::is_published")]
    pub schedule: ScheduleTable,
    /// Encodes the prompt as text features.
    pub text_encoder: NetworkManifest,
    /// Encodes the subject picture as semantic features.
    pub dinov2: NetworkManifest,
    /// Encodes the subject picture as content latents.
    pub flux_vae: NetworkManifest,
    /// Decodes bits to a picture.
    pub visual_tokenizer: NetworkManifest,
    /// Predicts the bits from the features.
    pub transformer: NetworkManifest,
    /// Finds the subject by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detector: Option<NetworkManifest>,
    /// Names the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namer: Option<NetworkManifest>,
    /// Segments the subject's outline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment_anything: Option<NetworkManifest>,
}

/// Default sampling parameters, and the sizes the networks support.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingDefaults {
    /// Strength of text guidance (cfg_t); 1 disables it.
    pub guidance_text: f64,
    /// Strength of subject guidance (cfg_i); 0 disables it.
    pub guidance_subject: f64,
    /// Divides the logits.
    pub temperature: f64,
    /// Candidates kept per bit; 1 is greedy, 2 or more keeps both values.
    pub top_k: u32,
    /// A value with probability 1 - `top_p` or less is never drawn; 0 disables this.
    pub top_p: f64,
    /// Seed of jobs that do not set one.
    pub seed: u64,
    /// Pixel budget of jobs that do not set one.
    pub pixel_budget: PixelBudget,
    /// Height divided by width for jobs that set no aspect ratio.
    pub height_to_width: f64,
    /// For each supported pixel budget, the side in pixels at which the subject picture is encoded.
    pub subject_resolution: BTreeMap<PixelBudget, u32>,
}

/// One network: its architecture and its files.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkManifest {
    /// Architecture parameters, named as in the published `config.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<toml::Table>,
    /// Instead of `config`: which of `files` holds the architecture parameters as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_file: Option<String>,
    /// Which of `files` are opened as the checkpoint. An index file stands for its shards.
    pub weights: Vec<String>,
    /// Which of `files` is the tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Prefix of the network's tensors in the checkpoint, such as `vae`. Files without the prefix are read unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// All files that the network needs.
    pub files: Vec<FileManifest>,
}

/// One file of a network.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileManifest {
    /// Path below the bundle's folder of weights.
    pub path: String,
    /// Hub repository to download from; absent for files shipped with the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Path in the repository, if it differs from the last component of `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Branch, tag or commit in the repository; `main` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Published length in bytes, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Published SHA-256 in lower-case hexadecimal, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Licence of the file.
    pub licence: String,
}

impl FileManifest {
    /// Returns the file's path in its repository.
    pub fn source(&self) -> &str {
        let last = self.path.rsplit('/').next().unwrap_or(&self.path);
        self.source.as_deref().unwrap_or(last)
    }

    /// Returns the branch, tag or commit to download.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

/// The networks that a bundle can contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// T5, the text encoder.
    TextEncoder,
    /// DINOv2, the semantic encoder.
    Dinov2,
    /// The FLUX autoencoder, the content encoder.
    FluxVae,
    /// The bitwise visual tokenizer of Infinity.
    VisualTokenizer,
    /// The EchoGen transformer.
    Transformer,
    /// GroundingDINO, the detector.
    Detector,
    /// Qwen2.5-VL, the namer.
    Namer,
    /// SAM, the segmenter.
    SegmentAnything,
}

impl Network {
    /// All networks, in the order of a manifest.
    pub const ALL: [Self; 8] = [
        Self::TextEncoder,
        Self::Dinov2,
        Self::FluxVae,
        Self::VisualTokenizer,
        Self::Transformer,
        Self::Detector,
        Self::Namer,
        Self::SegmentAnything,
    ];

    /// Returns the name of the network's table in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::TextEncoder => "text_encoder",
            Self::Dinov2 => "dinov2",
            Self::FluxVae => "flux_vae",
            Self::VisualTokenizer => "visual_tokenizer",
            Self::Transformer => "transformer",
            Self::Detector => "detector",
            Self::Namer => "namer",
            Self::SegmentAnything => "segment_anything",
        }
    }

    /// Returns whether generation works without this network.
    pub fn is_optional(self) -> bool {
        matches!(self, Self::Detector | Self::Namer | Self::SegmentAnything)
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Manifest {
    /// Returns a network's table, if the bundle contains that network.
    pub fn network(&self, network: Network) -> Option<&NetworkManifest> {
        match network {
            Network::TextEncoder => Some(&self.text_encoder),
            Network::Dinov2 => Some(&self.dinov2),
            Network::FluxVae => Some(&self.flux_vae),
            Network::VisualTokenizer => Some(&self.visual_tokenizer),
            Network::Transformer => Some(&self.transformer),
            Network::Detector => self.detector.as_ref(),
            Network::Namer => self.namer.as_ref(),
            Network::SegmentAnything => self.segment_anything.as_ref(),
        }
    }

    /// Returns the networks that the bundle contains, each with its table.
    pub fn networks(&self) -> impl Iterator<Item = (Network, &NetworkManifest)> {
        Network::ALL.into_iter().filter_map(|network| Some((network, self.network(network)?)))
    }

    /// Checks constraints that the types cannot express; the error is the reason.
    pub(super) fn check(&self) -> Result<(), String> {
        let name_is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(name_is_plain) {
            return Err(format!("name {} must be letters, digits, '-', '_' and '.'", quoted(&self.name)));
        }
        if self.name.len() > MAX_NAME_BYTES {
            return Err(format!("name has {} characters; the limit is {MAX_NAME_BYTES}", self.name.len()));
        }
        self.schedule.check()?;
        self.sampling.check(&self.schedule)?;
        let mut paths = BTreeSet::new();
        for (network, table) in self.networks() {
            table.check(&mut paths).map_err(|reason| format!("{network}: {reason}"))?;
        }
        Ok(())
    }
}

impl SamplingDefaults {
    fn check(&self, schedule: &ScheduleTable) -> Result<(), String> {
        if let Some(budget) = self.subject_resolution.keys().find(|budget| !schedule.budgets.contains_key(budget)) {
            let known = schedule.budgets.keys().map(PixelBudget::as_str).collect::<Vec<_>>().join(", ");
            return Err(format!(
                "sampling.subject_resolution: {budget} is none of {known}, which schedule.budgets has"
            ));
        }
        if let Some((budget, side)) = self.subject_resolution.iter().find(|(_, side)| !is_subject_side(**side)) {
            return Err(format!(
                "sampling.subject_resolution: {budget} has {side}; give a multiple of {SUBJECT_STEP} up to {MAX_SUBJECT_SIDE} \
                 pixels"
            ));
        }
        if !self.subject_resolution.contains_key(&self.pixel_budget) {
            let known = self.subject_resolution.keys().map(PixelBudget::as_str).collect::<Vec<_>>().join(", ");
            return Err(format!(
                "sampling.pixel_budget: {} has no subject_resolution; add it there, or give one of: {known}",
                self.pixel_budget
            ));
        }
        let finite = [self.guidance_text, self.guidance_subject].iter().all(|value| value.is_finite());
        let positive = [self.temperature, self.height_to_width].iter().all(|value| value.is_finite() && *value > 0.0);
        if !finite || !positive || self.top_k == 0 || !(0.0..=1.0).contains(&self.top_p) {
            return Err("sampling: guidance must be finite, temperature and height_to_width above 0, \
                        top_k at least 1, top_p from 0 to 1"
                .to_owned());
        }
        Ok(())
    }
}

impl NetworkManifest {
    /// Returns the entry of the file with that path.
    pub fn file(&self, path: &str) -> Option<&FileManifest> {
        self.files.iter().find(|file| file.path == path)
    }

    fn check<'a>(&'a self, paths: &mut BTreeSet<&'a str>) -> Result<(), String> {
        for file in &self.files {
            file.check()?;
            if !paths.insert(&file.path) {
                return Err(format!("{} is listed twice", quoted(&file.path)));
            }
        }
        if self.weights.is_empty() {
            return Err("weights names no file".to_owned());
        }
        let named = self.weights.iter().chain(&self.config_file).chain(&self.tokenizer);
        if let Some(stray) = named.into_iter().find(|path| self.file(path).is_none()) {
            return Err(format!("{} is not among its files", quoted(stray)));
        }
        match (&self.config, &self.config_file) {
            (Some(_), Some(_)) => Err("give config or config_file, not both".to_owned()),
            _ => Ok(()),
        }
    }
}

impl FileManifest {
    fn check(&self) -> Result<(), String> {
        let normal = Path::new(&self.path).components().all(|part| matches!(part, Component::Normal(_)));
        if self.path.is_empty() || !normal {
            return Err(format!("path {} must stay below the bundle's folder", quoted(&self.path)));
        }
        // They stand in messages and in lists on the terminal as they are.
        let texts = [Some(&self.path), Some(&self.licence), self.repository.as_ref(), self.source.as_ref()];
        let is_plain = |text: &&String| text.len() <= MAX_TEXT_BYTES && one_line(text) == **text;
        if let Some(text) = texts.into_iter().flatten().chain(&self.revision).find(|text| !is_plain(text)) {
            return Err(format!("{} is no line of at most {MAX_TEXT_BYTES} printable characters", quoted(text)));
        }
        let digits = |sum: &str| sum.len() == 64 && sum.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if self.sha256.as_deref().is_some_and(|sum| !digits(sum)) {
            return Err(format!("sha256 of {} must be 64 lower-case hexadecimal digits", self.path));
        }
        Ok(())
    }
}
