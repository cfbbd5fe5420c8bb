//! `echogen-eval --dreambench`: the subjects, sentences and metrics of the DreamBooth paper (arXiv 2208.12242).
//!
//! One photograph of every subject passes through the whole pipeline; all photographs are used for measuring. DINO and
//! CLIP-I are the mean cosine similarities of the features of a picture and of each photograph. CLIP-T is that of a
//! picture and its sentence without the rare word. The metric networks belong to no bundle; options name the folders
//! of their published files. Nothing is downloaded.

pub(crate) mod arguments;
mod folder;
mod judges;
mod kept;
mod prompts;
mod report;
mod subject_generator;

use std::path::Path;

use anyhow::{Context, Result};
use echogen_imaging::RgbImage;
use echogen_models::device::Compute;
use echogen_protocol::FoundBy;
use echogen_service::{
    Exit, Failure,
    config::ServiceConfig,
    console::{print_json, print_line},
    picture_file,
};
use indicatif::ProgressBar;

use self::{
    judges::{Judges, Scores},
    kept::{Place, Plan},
    report::{Report, Row},
    subject_generator::{GenerationSettings, SubjectGenerator},
};
use crate::arguments::EvalArguments;

/// Runs the evaluation on the photographs in `folder`.
pub(super) fn run(folder: &Path, arguments: &EvalArguments, config: &ServiceConfig) -> Result<Exit, Failure> {
    let options = &arguments.dreambench;
    let subjects = folder::read(folder, &options.subjects)?;
    let plan = |subject| Plan::new(subject, options.keep.as_deref(), options.per_prompt as usize);
    let plans = subjects.iter().map(plan).collect::<Result<Vec<_>>>()?;
    let compute = config.model.compute()?;
    let judges = Judges::load(options, &compute.device)?;
    let (bundle, generator) = generator(&plans, config, &compute)?;
    let bar = crate::progress_bar(plans.iter().map(|plan| plan.pictures.len()).sum(), arguments.json);
    let evaluation = Evaluation { judges, generator, bar };
    let rows = plans.iter().map(|plan| evaluation.row(plan)).collect::<Result<Vec<_>>>()?;
    evaluation.bar.finish_and_clear();
    let report = Report::new(bundle, rows);
    if arguments.json {
        print_json("dreambench", &report);
    } else {
        print_line(report.table().trim_end());
    }
    Ok(Exit::Success)
}

/// Returns the bundle's name and networks, as far as needed: pictures that were made elsewhere need neither.
fn generator(
    plans: &[Plan<'_>],
    config: &ServiceConfig,
    compute: &Compute,
) -> Result<(Option<String>, Option<SubjectGenerator>), Failure> {
    let is_missing = |plan: &Plan<'_>| plan.missing().next().is_some();
    if !plans.iter().any(|plan| plan.has_settings() || is_missing(plan)) {
        return Ok((None, None));
    }
    let settings = GenerationSettings::open(config)?;
    for plan in plans {
        plan.agree(&settings.record(plan.subject)?)?;
    }
    let name = settings.bundle_name().to_owned();
    let generator = if plans.iter().any(is_missing) { Some(settings.load(compute)?) } else { None };
    Ok((Some(name), generator))
}

struct Evaluation {
    judges: Judges,
    /// `None` if no picture has to be generated.
    generator: Option<SubjectGenerator>,
    bar: ProgressBar,
}

impl Evaluation {
    /// Generates the missing pictures of a subject, and measures all of them.
    fn row(&self, plan: &Plan<'_>) -> Result<Row> {
        let subject = plan.subject;
        self.bar.set_message(subject.name.clone());
        let photographs = subject.photographs.iter().map(|path| self.judges.see(&picture_file::read(path)?));
        let photographs = photographs.collect::<Result<Vec<_>>>()?;
        let sentences = subject.captions.iter().map(|caption| self.judges.read(caption)).collect::<Result<Vec<_>>>()?;
        let mut scores: Vec<(Place, Scores)> = Vec::new();
        let mut judge = |place: Place, picture: &RgbImage| -> Result<()> {
            let seen = self.judges.see(picture)?;
            scores.push((place, Scores::of(&seen, &photographs, sentences[place.caption].as_ref())));
            self.bar.inc(1);
            Ok(())
        };
        for (place, file) in &plan.pictures {
            if let Some(file) = file {
                judge(*place, &picture_file::read(file).context("delete the picture to have it made again")?)?;
            }
        }
        let how = self.make(plan, judge)?;
        // Sorted, so that sums of an interrupted and resumed run are identical.
        scores.sort_by_key(|(place, _)| *place);
        let scores: Vec<Scores> = scores.into_iter().map(|(_, scores)| scores).collect();
        Ok(Row {
            subject: subject.name.clone(),
            class: subject.class.clone(),
            pictures: scores.len(),
            made: plan.missing().count(),
            how,
            scores: Scores::mean(&scores),
            real: Scores::of_photographs(&photographs),
        })
    }

    /// Generates the missing pictures, keeps them and passes each to `judge`. Returns how the subject was found.
    fn make(&self, plan: &Plan<'_>, mut judge: impl FnMut(Place, &RgbImage) -> Result<()>) -> Result<Option<FoundBy>> {
        let places: Vec<Place> = plan.missing().map(|(place, _)| *place).collect();
        let (Some(generator), Some(photograph)) = (&self.generator, plan.subject.photographs.first()) else {
            return Ok(None);
        };
        if places.is_empty() {
            return Ok(None);
        }
        let (subject, how) = generator
            .encode(&picture_file::read(photograph)?, &plan.subject.class)
            .with_context(|| photograph.display().to_string())?;
        for batch in places.chunks(generator.side_by_side()) {
            let wish = |place: &Place| (plan.subject.captions[place.caption].as_str(), place.number as u64);
            let pictures = generator.make(&subject, &batch.iter().map(wish).collect::<Vec<_>>())?;
            for (place, picture) in batch.iter().zip(&pictures) {
                plan.keep(*place, picture)?;
                judge(*place, picture)?;
            }
        }
        Ok(Some(how))
    }
}
