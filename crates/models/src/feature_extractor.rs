//! Encoding of a cut-out as an [`EncodedSubject`], by DINOv2 and the FLUX autoencoder.
//!
//! The cut-out is resized (Lanczos, shorter side to the resolution) and centre-cropped to a square. DINOv2 reads it at
//! 224 pixels for every 256; the autoencoder reads it unchanged.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use echogen_checkpoint::bundle::{Bundle, BundleError, Network};
use echogen_imaging::{RgbImage, cover_and_crop, to_unit_tensor};

use crate::{
    dinov2::{Dinov2, PositionResampling},
    encoded_subject::{DINOV2_SIDE, EncodedSubject, SubjectError},
    flux_vae::{FluxVaeConfig, FluxVaeEncoder},
};

/// DINOv2 and the encoder of the FLUX autoencoder.
#[derive(Debug, Clone)]
pub struct FeatureExtractor {
    /// One DINOv2 for each side in pixels at which subjects are encoded, with shared weights.
    dinov2: BTreeMap<usize, Dinov2>,
    vae_encoder: FluxVaeEncoder,
    dtype: DType,
    device: Device,
}

impl FeatureExtractor {
    /// Loads the two networks of `bundle`.
    ///
    /// # Errors
    ///
    /// If the bundle lacks one of them, its weights do not fit, or the patch size does not divide 224 pixels.
    pub fn load(bundle: &Bundle, device: &Device, dtype: DType) -> Result<Self, BundleError> {
        let config = bundle.config(Network::Dinov2)?;
        let dinov2 =
            bundle.load(Network::Dinov2, (device, dtype), Dinov2::is_ignored, |vb| Dinov2::new(vb, &config))?;
        let config: FluxVaeConfig = bundle.config(Network::FluxVae)?;
        let vae_encoder = bundle
            .load(Network::FluxVae, (device, dtype), FluxVaeEncoder::ignores, |vb| FluxVaeEncoder::new(vb, &config))?;
        let resolutions = bundle.manifest().sampling.subject_resolution.values().map(|side| *side as usize);
        Self::new(&dinov2, vae_encoder, resolutions).map_err(|error| BundleError::Config {
            bundle: bundle.name().to_owned(),
            network: Network::Dinov2,
            reason: error.to_string(),
        })
    }

    /// Creates an extractor from two networks on one device with one dtype, for subjects of these sides in pixels.
    ///
    /// # Errors
    ///
    /// If DINOv2's patch size does not divide 224 pixels.
    pub fn new(
        dinov2: &Dinov2,
        vae_encoder: FluxVaeEncoder,
        resolutions: impl IntoIterator<Item = usize>,
    ) -> candle_core::Result<Self> {
        let patch = dinov2.config().patch_size;
        if !DINOV2_SIDE.is_multiple_of(patch) {
            candle_core::bail!("subjects are seen at {DINOV2_SIDE} pixels, which patches of {patch} do not divide");
        }
        let grid = |resolution: usize| {
            let side = DINOV2_SIDE * resolution / 256 / patch;
            Ok((resolution, dinov2.with_grid(side, side, PositionResampling::Antialiased)?))
        };
        let table = dinov2.position_embeddings();
        let (dtype, device) = (table.dtype(), table.device().clone());
        let dinov2 = resolutions.into_iter().map(grid).collect::<candle_core::Result<_>>()?;
        Ok(Self { dinov2, vae_encoder, dtype, device })
    }

    /// The type in which the networks compute.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Encodes a cut-out at `resolution` x `resolution` pixels.
    ///
    /// # Errors
    ///
    /// If the picture has no pixels, the extractor was not made for the resolution, or a tensor operation fails.
    pub fn encode(&self, cutout: &RgbImage, resolution: usize) -> Result<EncodedSubject, SubjectError> {
        let dinov2 = self.dinov2.get(&resolution).ok_or_else(|| SubjectError::Resolution {
            wanted: resolution,
            known: self.dinov2.keys().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        })?;
        let square = cover_and_crop(cutout, resolution as u32, resolution as u32)?;
        let image = to_unit_tensor(&square)?.unsqueeze(0)?; // (1, 3, resolution, resolution)
        let features = dinov2.forward(&self.input(&dinov2.prepare(&image)?)?)?;
        let posterior = self.vae_encoder.forward(&self.input(&image)?)?;
        Ok(EncodedSubject {
            cls: stored(&features.cls_token)?,
            patches: stored(&features.patch_tokens)?,
            mean: stored(&posterior.mean)?,
            logvar: stored(&posterior.logvar)?,
            resolution,
            key: None,
        })
    }

    fn input(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        xs.to_device(&self.device)?.to_dtype(self.dtype)
    }
}

/// Returns the only item of a batch, f32 on the CPU.
fn stored(xs: &Tensor) -> candle_core::Result<Tensor> {
    xs.get(0)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use candle_nn::VarBuilder;

    use super::*;
    use crate::encoded_subject::SubjectShape;

    fn fixture(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
    }

    fn weights(name: &str) -> VarBuilder<'static> {
        let tensors = candle_core::safetensors::load(fixture(name).join("model.safetensors"), &Device::Cpu).unwrap();
        VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
    }

    fn config<T: serde::de::DeserializeOwned>(name: &str) -> T {
        serde_json::from_slice(&std::fs::read(fixture(name).join("config.json")).unwrap()).unwrap()
    }

    fn encoder() -> FeatureExtractor {
        let dinov2 = Dinov2::new(weights("dinov2"), &config("dinov2")).unwrap();
        let vae_encoder = FluxVaeEncoder::new(weights("flux-vae"), &config("flux-vae")).unwrap();
        FeatureExtractor::new(&dinov2, vae_encoder, [64, 256, 512]).unwrap()
    }

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 3) as u8, (y * 2) as u8, (x + y) as u8]))
    }

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn all_resolutions_give_the_shapes_that_the_sampler_expects() {
        let encoder = encoder();
        for (resolution, patches, content_tokens) in [(64, 16, 64), (256, 256, 1024), (512, 1024, 4096)] {
            let subject = encoder.encode(&picture(90, 60), resolution).unwrap();
            let shape = SubjectShape { channels: 64, patches, latent_channels: 16, content_tokens };
            assert_eq!(subject.shape(), shape);
            assert_eq!(subject.cls.dims(), [64]);
            assert_eq!(subject.content(1).unwrap().dims(), [content_tokens, 16]);
            assert!(EncodedSubject::from_bytes(&subject.to_bytes().unwrap()).is_ok());
        }
    }

    #[test]
    fn the_networks_see_the_square_cut_and_equal_their_direct_use() {
        let subject = encoder().encode(&picture(300, 200), 256).unwrap();
        let square = cover_and_crop(&picture(300, 200), 256, 256).unwrap();
        let image = to_unit_tensor(&square).unwrap().unsqueeze(0).unwrap();
        let dinov2 = Dinov2::new(weights("dinov2"), &config("dinov2")).unwrap();
        let dinov2 = dinov2.with_grid(16, 16, PositionResampling::Antialiased).unwrap();
        let features = dinov2.forward(&dinov2.prepare(&image).unwrap()).unwrap();
        assert_eq!(values(&subject.cls), values(&features.cls_token));
        assert_eq!(values(&subject.patches), values(&features.patch_tokens));
        let vae_encoder = FluxVaeEncoder::new(weights("flux-vae"), &config("flux-vae")).unwrap();
        let posterior = vae_encoder.forward(&image).unwrap();
        assert_eq!(values(&subject.mean), values(&posterior.mean));
        assert_eq!(values(&subject.logvar), values(&posterior.logvar));
    }

    #[test]
    fn other_resolutions_and_empty_pictures_are_refused() {
        let encoder = encoder();
        let error = encoder.encode(&picture(9, 9), 384).unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains("at 64, 256, 512 pixels, not at 384"), "{error}");
        assert!(matches!(encoder.encode(&RgbImage::new(0, 0), 256), Err(SubjectError::Image(_))));
    }
}
