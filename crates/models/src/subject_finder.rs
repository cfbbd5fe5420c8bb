//! The networks of a bundle that find a subject: namer, detector and masker. Each is optional.

use candle_core::{DType, Device};

use crate::{
    detector::{DetectorError, DetectorPreparation, SubjectDetector},
    grounding_dino::{GroundingDino, GroundingDinoConfig},
    masker::SubjectMasker,
    namer::{NamerError, SubjectNamer},
    qwen2_5_vl::{Qwen, QwenConfig},
    sam::{Sam, SamConfig},
    text_encoder::{TextEncoderError, load_tokenizer},
};
use echogen_checkpoint::bundle::{Bundle, BundleError, Network, Presence};

/// The networks cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SubjectFinderError {
    /// The bundle is malformed, a network's files are incomplete, or its weights do not fit.
    #[error(transparent)]
    Bundle(Box<BundleError>),
    /// A tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] TextEncoderError),
    /// Detector and tokenizer do not belong together.
    #[error(transparent)]
    Detector(#[from] DetectorError),
    /// Namer and tokenizer do not belong together.
    #[error(transparent)]
    Namer(#[from] NamerError),
}

impl From<BundleError> for SubjectFinderError {
    fn from(error: BundleError) -> Self {
        Self::Bundle(Box::new(error))
    }
}

/// The networks of a bundle that find a subject; absent ones are `None`.
#[derive(Debug, Default)]
pub struct SubjectFinder {
    /// Names the subject of a picture.
    pub namer: Option<SubjectNamer>,
    /// Finds the box of a subject of a given name.
    pub detector: Option<SubjectDetector>,
    /// Segments the subject in a box.
    pub masker: Option<SubjectMasker>,
}

impl SubjectFinder {
    /// Loads those networks of the bundle whose files are present. The namer computes in `dtype`, the others in
    /// float32.
    ///
    /// # Errors
    ///
    /// A network's files are incomplete, or its weights do not fit.
    pub fn load(bundle: &Bundle, device: &Device, dtype: DType) -> Result<Self, SubjectFinderError> {
        let mut finder = Self::default();
        if is_there(bundle, Network::Detector) {
            let config: GroundingDinoConfig = bundle.config(Network::Detector)?;
            let network = bundle.load(Network::Detector, (device, DType::F32), GroundingDino::is_ignored, |vb| {
                GroundingDino::new(vb, &config)
            })?;
            let tokenizer = load_tokenizer(&bundle.tokenizer(Network::Detector)?)?;
            let preparation: DetectorPreparation = bundle.config(Network::Detector)?;
            finder.detector = Some(SubjectDetector::new(network, tokenizer)?.with_size(preparation.size)?);
        }
        if is_there(bundle, Network::Namer) {
            let config: QwenConfig = bundle.config(Network::Namer)?;
            let network =
                bundle.load(Network::Namer, (device, dtype), Qwen::is_ignored, |vb| Qwen::new(vb, &config))?;
            let tokenizer = load_tokenizer(&bundle.tokenizer(Network::Namer)?)?;
            // The published preprocessing, unless the same file overrides it.
            let preparation = bundle.config(Network::Namer)?;
            finder.namer = Some(SubjectNamer::new(network, tokenizer)?.with_preparation(preparation));
        }
        if is_there(bundle, Network::SegmentAnything) {
            let config: SamConfig = bundle.config(Network::SegmentAnything)?;
            let network = bundle
                .load(Network::SegmentAnything, (device, DType::F32), Sam::is_ignored, |vb| Sam::new(vb, &config))?;
            finder.masker = Some(SubjectMasker::new(network));
        }
        Ok(finder)
    }
}

/// An optional network may be absent. One that is there in part is an error: opening it names the missing file.
fn is_there(bundle: &Bundle, network: Network) -> bool {
    bundle.manifest().network(network).is_some() && bundle.presence(network) != Presence::Absent
}
