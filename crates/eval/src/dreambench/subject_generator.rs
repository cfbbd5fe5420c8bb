//! Generation of pictures of a photographed subject: detection, cut-out, encoding, sampling.

use std::sync::Arc;

use anyhow::{Context, Result};
use echogen_checkpoint::bundle::Bundle;
use echogen_imaging::{PixelBox, RgbImage, white_outside};
use echogen_models::{
    device::Compute, echogen::SamplingOptions, encoded_subject::EncodedSubject, subject_finder::SubjectFinder,
};
use echogen_protocol::{BoundingBox, FoundBy, IfNotFound, ImageSource};
use echogen_segmenter::{FinderConfig, find_subject};
use echogen_service::{Failure, config::ServiceConfig};
use serde_json::{Value, json};

use super::folder::Subject;
use crate::pipeline::{self, Pipeline};

/// Everything that determines a generated picture. No network is loaded.
pub(super) struct GenerationSettings {
    bundle: Bundle,
    options: SamplingOptions,
    finder: FinderConfig,
}

impl GenerationSettings {
    /// Opens the bundle selected by the options.
    pub(super) fn open(config: &ServiceConfig) -> Result<Self, Failure> {
        let bundle = config.model.open()?;
        let options = pipeline::sampling(&bundle, &config.job);
        Ok(Self { bundle, options, finder: config.finder.clone() })
    }

    /// Returns the bundle's name.
    pub(super) fn bundle_name(&self) -> &str {
        self.bundle.name()
    }

    /// Returns the settings that are recorded beside a subject's pictures.
    pub(super) fn record(&self, subject: &Subject) -> Result<Value> {
        let FinderConfig { threshold, selection, padding, fallback_name: _, naming_timeout_seconds: _ } = &self.finder;
        let models = self.bundle.digests().with_context(|| self.cannot_load())?;
        Ok(json!({
            "bundle": self.bundle.name(),
            "models": models,
            "sampling": self.options,
            "pixel_budget": self.bundle.manifest().sampling.pixel_budget,
            "seed": self.bundle.manifest().sampling.seed,
            "finder": {"threshold": threshold, "selection": format!("{selection:?}"), "padding": padding},
            "class": subject.class,
            "captions": subject.captions,
            "photograph": subject.photographs.first().and_then(|path| path.file_name()?.to_str()),
        }))
    }

    /// Loads the networks.
    pub(super) fn load(self, compute: &Compute) -> Result<SubjectGenerator, Failure> {
        let pipeline = Pipeline::load(&self.bundle, compute).with_context(|| self.cannot_load())?;
        let Compute { device, dtype } = compute;
        let networks = SubjectFinder::load(&self.bundle, device, *dtype).with_context(|| self.cannot_load())?;
        self.options.validate(pipeline.schedule.scales().len()).map_err(Failure::usage)?;
        Ok(SubjectGenerator { pipeline, networks, settings: self })
    }

    fn cannot_load(&self) -> String {
        format!("cannot load the bundle {}", self.bundle.name())
    }
}

/// The loaded networks of a bundle.
pub(super) struct SubjectGenerator {
    pipeline: Pipeline,
    networks: SubjectFinder,
    settings: GenerationSettings,
}

impl SubjectGenerator {
    /// Detects the subject of a photograph by its class, and encodes its cut-out. Without a detector or a detection,
    /// the whole photograph is encoded.
    pub(super) fn encode(&self, photograph: &RgbImage, class: &str) -> Result<(Arc<EncodedSubject>, FoundBy)> {
        let mut subject = echogen_protocol::Subject::new(ImageSource("photograph".to_owned()));
        subject.name = Some(class.to_owned());
        subject.if_not_found = IfNotFound::WholeImage;
        let found = find_subject(&self.networks, &self.settings.finder, photograph, &subject, &|| true)?;
        let BoundingBox { left, top, right, bottom } = found.bounding_box;
        let cutout = white_outside(photograph, PixelBox { left, top, right, bottom })?;
        Ok((Arc::new(self.pipeline.encode(&cutout)?), found.how))
    }

    /// Returns the best batch size.
    pub(super) fn side_by_side(&self) -> usize {
        self.pipeline.side_by_side(&self.settings.options)
    }

    /// Generates one picture for each sentence. Each seed is the bundle's seed plus the given offset.
    pub(super) fn make(&self, subject: &Arc<EncodedSubject>, wishes: &[(&str, u64)]) -> Result<Vec<RgbImage>> {
        let seed = |after: u64| self.pipeline.seed.wrapping_add(after);
        let options = &self.settings.options;
        let requests = wishes.iter().map(|(caption, after)| pipeline::request(caption, subject, seed(*after), options));
        self.pipeline.make(&requests.collect::<Vec<_>>())
    }
}
