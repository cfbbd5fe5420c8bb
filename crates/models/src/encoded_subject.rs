//! An encoded subject: DINOv2's features and the posterior of the FLUX autoencoder, and their file format.
//!
//! The posterior is stored instead of a sample: the published code draws the sample from an unseeded generator,
//! whereas [`EncodedSubject::content`] draws it from a seed. The file format is safetensors, so that a subject can be
//! stored, shared between machines, and read by other programs.
//! [`FeatureExtractor`](crate::feature_extractor::FeatureExtractor) creates encoded subjects.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::echogen::{EchoGenConfig, FeatureKey};
use crate::flux_vae::Posterior;
use crate::random::CounterRng;
use echogen_checkpoint::bundle::is_subject_side;
use echogen_imaging::ImageError;

/// Side in pixels of DINOv2's input for a subject of 256 pixels.
pub(crate) const DINOV2_SIDE: usize = 224;

/// Side of DINOv2's patches in pixels.
const DINOV2_PATCH: usize = 14;

/// Pixels per latent cell of the autoencoder, along one side.
const LATENT_STRIDE: usize = 8;

/// Number of the random stream of the posterior's noise. The sampler's bits use another stream.
pub const SUBJECT_NOISE_STREAM: u64 = 2;

/// Maximum length in bytes of an encoded subject. The published networks need 3.7 MiB at 512 pixels.
const MAX_BYTES: usize = 64 << 20;

/// Key of the only metadata entry. With several entries, the order in the file would be random.
const METADATA_KEY: &str = "echogen_encoded_subject";
const VERSION: u32 = 1;

/// Valid range of log-variances; the encoder clamps to it.
const LOGVAR_RANGE: std::ops::RangeInclusive<f32> = -30.0..=20.0;

/// A subject could not be encoded or read.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// The cut-out is unusable.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The bundle does not encode subjects at this resolution.
    #[error("this bundle encodes subjects at {known} pixels, not at {wanted}; see sampling.subject_resolution")]
    Resolution {
        /// The side in pixels that was asked for.
        wanted: usize,
        /// The sides that there are.
        known: String,
    },
    /// A tensor operation failed.
    #[error("encoding the subject failed")]
    Network(#[from] candle_core::Error),
    /// The bytes are not an encoded subject of this version.
    #[error("encoded subject is unusable ({0}); encode it anew")]
    Malformed(String),
}

impl SubjectError {
    /// Whether a retry with the same input is pointless. Tensor errors may be caused by lack of memory, so they are
    /// transient.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Network(_))
    }
}

/// The features of one subject; f32, on the CPU.
#[derive(Debug, Clone)]
pub struct EncodedSubject {
    /// DINOv2's class token: (channels).
    pub cls: Tensor,
    /// DINOv2's patch tokens, row-major: (patches, channels).
    pub patches: Tensor,
    /// Mean of the autoencoder's posterior: (latent channels, rows, columns).
    pub mean: Tensor,
    /// Logarithm of the variance, same shape as the mean.
    pub logvar: Tensor,
    /// Side in pixels at which the subject was encoded.
    pub resolution: usize,
    /// What its owner knows it by, if there is one; not part of the file.
    pub key: Option<FeatureKey>,
}

/// Sizes of an encoded subject, to compare with those that a generator was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubjectShape {
    /// Channels of DINOv2's tokens.
    pub channels: usize,
    /// Number of patches.
    pub patches: usize,
    /// Channels of the autoencoder's latent.
    pub latent_channels: usize,
    /// Number of content tokens: rows times columns of the latent.
    pub content_tokens: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    version: u32,
    resolution: usize,
}

impl EncodedSubject {
    /// Returns an all-zero subject with the sizes that a transformer takes at a resolution, for a test run.
    ///
    /// # Errors
    ///
    /// If the tensors cannot be created.
    pub fn blank(config: &EchoGenConfig, resolution: usize) -> Result<Self, SubjectError> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        let (side, patches) = (resolution / LATENT_STRIDE, resolution * DINOV2_SIDE / 256 / DINOV2_PATCH);
        Ok(Self {
            cls: zeros(&[config.semantic_dim])?,
            patches: zeros(&[patches * patches, config.semantic_dim])?,
            mean: zeros(&[config.content_dim, side, side])?,
            logvar: zeros(&[config.content_dim, side, side])?,
            resolution,
            key: None,
        })
    }

    /// Returns the sizes.
    pub fn shape(&self) -> SubjectShape {
        let (patches, mean) = (self.patches.dims(), self.mean.dims());
        SubjectShape {
            channels: patches[1],
            patches: patches[0],
            latent_channels: mean[0],
            content_tokens: mean[1] * mean[2],
        }
    }

    /// Samples the content tokens (rows * columns, latent channels) from the posterior.
    ///
    /// The noise is the stream [`SUBJECT_NOISE_STREAM`] of the seed: normals 0, 1, ... in the memory order of the mean
    /// (channel, row, column).
    ///
    /// # Errors
    ///
    /// If the tensors do not have the shapes of an encoded subject.
    pub fn content(&self, seed: u64) -> candle_core::Result<Tensor> {
        let mut noise = vec![0.0; self.mean.elem_count()];
        CounterRng::new(seed, SUBJECT_NOISE_STREAM).fill_normal(&mut noise);
        let noise = Tensor::from_vec(noise, self.mean.shape(), &Device::Cpu)?;
        let posterior = Posterior { mean: self.mean.clone(), logvar: self.logvar.clone() };
        // (latent channels, rows, columns) -> (rows * columns, latent channels)
        posterior.sample(&noise)?.flatten_from(1)?.t()?.contiguous()
    }

    /// Serialises the subject as a safetensors file. Equal subjects give equal bytes.
    ///
    /// # Errors
    ///
    /// If the tensors are not f32 on the CPU.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SubjectError> {
        let metadata = Metadata { version: VERSION, resolution: self.resolution };
        let metadata = serde_json::to_string(&metadata).map_err(malformed)?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), metadata)]);
        let named = [("cls", &self.cls), ("patches", &self.patches), ("mean", &self.mean), ("logvar", &self.logvar)];
        safetensors::serialize(named, Some(metadata)).map_err(malformed)
    }

    /// Parses the output of [`to_bytes`](Self::to_bytes). Allocation is bounded by the length of the bytes.
    ///
    /// # Errors
    ///
    /// [`SubjectError::Malformed`] if the bytes are damaged, of another version, have tensors of other types or
    /// inconsistent shapes, or contain values that no encoder produces (not finite, log-variances out of range).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SubjectError> {
        if bytes.len() > MAX_BYTES {
            return Err(malformed(format!("{} bytes; the limit is {MAX_BYTES}", bytes.len())));
        }
        let resolution = read_resolution(bytes)?;
        let file = SafeTensors::deserialize(bytes).map_err(malformed)?;
        if file.len() != 4 {
            return Err(malformed(format!("{} tensors instead of 4", file.len())));
        }
        let subject = Self {
            cls: read_tensor(&file, "cls", 1)?,
            patches: read_tensor(&file, "patches", 2)?,
            mean: read_tensor(&file, "mean", 3)?,
            logvar: read_tensor(&file, "logvar", 3)?,
            resolution,
            key: None,
        };
        subject.check()?;
        Ok(subject)
    }

    /// Checks that the tensors' shapes are consistent and their values valid.
    fn check(&self) -> Result<(), SubjectError> {
        let (cls, patches) = (self.cls.dims(), self.patches.dims());
        if cls[0] != patches[1] {
            return Err(malformed(format!("cls has {} channels and patches have {}", cls[0], patches[1])));
        }
        let (mean, logvar) = (self.mean.dims(), self.logvar.dims());
        if mean != logvar {
            return Err(malformed(format!("mean has shape {mean:?} and logvar {logvar:?}")));
        }
        if mean[1] != mean[2] || !self.resolution.is_multiple_of(mean[1]) {
            return Err(malformed(format!("a latent of {} x {} for {} pixels", mean[1], mean[2], self.resolution)));
        }
        let values = self.logvar.flatten_all()?.to_vec1::<f32>()?;
        if let Some(value) = values.iter().find(|value| !LOGVAR_RANGE.contains(*value)) {
            return Err(malformed(format!("log-variance {value} is out of bounds")));
        }
        Ok(())
    }
}

fn malformed(reason: impl std::fmt::Display) -> SubjectError {
    SubjectError::Malformed(reason.to_string())
}

/// Reads the resolution from the metadata and checks the version.
fn read_resolution(bytes: &[u8]) -> Result<usize, SubjectError> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
    let entry = header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA_KEY));
    let entry = entry.ok_or_else(|| malformed("it is another kind of file"))?;
    let metadata: Metadata = serde_json::from_str(entry).map_err(malformed)?;
    if metadata.version != VERSION {
        return Err(malformed(format!("version {} instead of {VERSION}", metadata.version)));
    }
    if !u32::try_from(metadata.resolution).is_ok_and(is_subject_side) {
        return Err(malformed(format!("resolution {}", metadata.resolution)));
    }
    Ok(metadata.resolution)
}

fn read_tensor(file: &SafeTensors<'_>, name: &str, rank: usize) -> Result<Tensor, SubjectError> {
    let view = file.tensor(name).map_err(malformed)?;
    let shape = view.shape();
    if view.dtype() != Dtype::F32 || shape.len() != rank || shape.contains(&0) {
        return Err(malformed(format!("{name} is {:?} {shape:?}", view.dtype())));
    }
    let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if !values.iter().all(|value| value.is_finite()) {
        return Err(malformed(format!("{name} has numbers that are not finite")));
    }
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A synthetic subject with 2 channels, 3 patches, and a latent of 2 x 4 x 4.
    fn small() -> EncodedSubject {
        let tensor = |shape: &[usize], scale: f64| {
            let count = shape.iter().product::<usize>() as u32;
            let values = Tensor::arange(0, count, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
            values.affine(scale, 0.5).unwrap().reshape(shape).unwrap()
        };
        EncodedSubject {
            cls: tensor(&[2], 1.0),
            patches: tensor(&[3, 2], 1.0),
            mean: tensor(&[2, 4, 4], 1.0),
            logvar: tensor(&[2, 4, 4], -0.1),
            resolution: 256,
            key: None,
        }
    }

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn reason(bytes: &[u8]) -> String {
        let error = EncodedSubject::from_bytes(bytes).unwrap_err();
        assert!(error.is_permanent());
        error.to_string()
    }

    #[test]
    fn the_way_through_bytes_loses_nothing_and_is_always_the_same() {
        let bytes = small().to_bytes().unwrap();
        assert_eq!(bytes, small().to_bytes().unwrap());
        let back = EncodedSubject::from_bytes(&bytes).unwrap();
        assert_eq!(back.resolution, 256);
        for (a, b) in [
            (&back.cls, &small().cls),
            (&back.patches, &small().patches),
            (&back.mean, &small().mean),
            (&back.logvar, &small().logvar),
        ] {
            assert_eq!((a.dims(), values(a)), (b.dims(), values(b)));
        }
    }

    #[test]
    fn content_is_mean_plus_deviation_times_the_documented_noise() {
        let subject = small();
        let content = subject.content(9).unwrap();
        assert_eq!(content.dims(), [16, 2]);
        let content = content.to_vec2::<f32>().unwrap();
        let (mean, logvar) = (values(&subject.mean), values(&subject.logvar));
        let rng = CounterRng::new(9, SUBJECT_NOISE_STREAM);
        for (token, channel) in (0..16).flat_map(|token| [(token, 0), (token, 1)]) {
            let index = channel * 16 + token;
            let expected = mean[index] + (logvar[index] / 2.0).exp() * rng.normal_at(index as u64);
            assert!((content[token][channel] - expected).abs() < 1e-5, "{token} {channel}");
        }
        assert_ne!(values(&subject.content(9).unwrap()), values(&subject.content(10).unwrap()));
    }

    #[test]
    fn a_file_cut_off_anywhere_is_refused() {
        let bytes = small().to_bytes().unwrap();
        for length in 0..bytes.len() {
            assert!(EncodedSubject::from_bytes(&bytes[..length]).is_err(), "{length}");
        }
        assert!(EncodedSubject::from_bytes(&[&bytes[..], b"more"].concat()).is_err());
    }

    #[test]
    fn tensors_that_do_not_belong_together_are_refused() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let with = |change: &dyn Fn(&mut EncodedSubject)| {
            let mut subject = small();
            change(&mut subject);
            reason(&subject.to_bytes().unwrap())
        };
        assert!(with(&|s| s.cls = zeros(&[3])).contains("cls has 3 channels and patches have 2"));
        assert!(with(&|s| s.patches = zeros(&[3, 2, 1])).contains("patches is F32 [3, 2, 1]"));
        assert!(with(&|s| s.patches = zeros(&[0, 2])).contains("patches is F32 [0, 2]"));
        assert!(with(&|s| s.mean = zeros(&[2, 4, 2])).contains("mean has shape [2, 4, 2] and logvar [2, 4, 4]"));
        assert!(
            with(&|s| (s.mean, s.logvar) = (zeros(&[2, 3, 3]), zeros(&[2, 3, 3]))).contains("3 x 3 for 256 pixels")
        );
        assert!(with(&|s| s.cls = s.cls.to_dtype(DType::F64).unwrap()).contains("cls is F64"));
        assert!(with(&|s| s.resolution = 100).contains("resolution 100"));
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let with = |value: f32, name: &str| {
            let mut subject = small();
            let tensor = Tensor::full(value, &[2, 4, 4], &Device::Cpu).unwrap();
            if name == "mean" {
                subject.mean = tensor
            } else {
                subject.logvar = tensor
            }
            EncodedSubject::from_bytes(&subject.to_bytes().unwrap()).map_err(|error| error.to_string())
        };
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(with(value, "mean").unwrap_err().contains("mean has numbers that are not finite"));
        }
        assert!(with(20.5, "logvar").unwrap_err().contains("log-variance 20.5 is out of bounds"));
        assert!(with(20.0, "logvar").is_ok() && with(-30.0, "logvar").is_ok());
    }

    #[test]
    fn other_files_and_versions_are_refused() {
        assert!(reason(b"").contains("encode it anew"));
        assert!(reason(&[255; 64]).contains("encode it anew"));
        let plain = safetensors::serialize([("cls", &small().cls)], None).unwrap();
        assert!(reason(&plain).contains("another kind of file"));
        let later = |metadata: &str| {
            let metadata = HashMap::from([(METADATA_KEY.to_owned(), metadata.to_owned())]);
            reason(&safetensors::serialize([("cls", &small().cls)], Some(metadata)).unwrap())
        };
        assert!(later(r#"{"version":2,"resolution":256}"#).contains("version 2 instead of 1"));
        assert!(later(r#"{"version":1,"resolution":256}"#).contains("1 tensors instead of 4"));
        assert!(later("nonsense").contains("encode it anew"));
    }
}
