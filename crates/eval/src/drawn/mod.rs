//! Evaluation on held-out subjects and scenes of the drawn world (`echogen-world`).
//!
//! The bundle's networks run in this process. Generated pictures are measured by DINOv2's features and by a judge that
//! is no part of the bundle's pipeline.

mod examples;
mod networks;
mod report;
mod sweep;

use std::{sync::Arc, time::Instant};

use anyhow::{Context, Result};
use echogen_figures::{SheetRow, contact_sheet};
use echogen_imaging::RgbImage;
use echogen_models::{
    echogen::{PerScale, SamplingOptions},
    encoded_subject::EncodedSubject,
};
use echogen_service::{
    Exit, Failure,
    config::ServiceConfig,
    console::{print_json, print_line},
};
use echogen_world::Bounds;
use indicatif::ProgressBar;

use self::{
    examples::{Example, GALLERY},
    networks::{Networks, PictureFeatures},
    report::{Fidelity, Report, SweepPoint},
};
use crate::{arguments::EvalArguments, measures, pipeline, progress_bar};

/// Number of pictures on the contact sheet.
const GRID: usize = 24;

/// Number of pictures generated one by one for timing.
const TIMED: usize = 5;

/// Number of pictures per point of the sweep.
const SWEPT: usize = 50;

/// Runs the evaluation.
pub(crate) fn run(arguments: &EvalArguments, config: &ServiceConfig) -> Result<Exit, Failure> {
    let (bundle, compute) = (config.model.open()?, config.model.compute()?);
    let options = pipeline::sampling(&bundle, &config.job);
    let networks =
        Networks::load(&bundle, &compute).with_context(|| format!("cannot load the bundle {}", bundle.name()))?;
    options.validate(networks.pipeline.schedule.scales().len()).map_err(Failure::usage)?;
    let evaluation = Evaluation::prepare(&networks, arguments)?;
    let report = Report { bundle: bundle.name().to_owned(), ..evaluation.report(arguments, &options)? };
    evaluation.bar.finish_and_clear();
    if arguments.json {
        print_json("evaluation", &report);
    } else {
        print_line(report.table().trim_end());
        for path in arguments.sweep.iter().chain(&arguments.grid) {
            print_line(&path.display().to_string());
        }
    }
    Ok(Exit::Success)
}

/// Examples with their encoded subjects, and the retrieval galleries.
struct Evaluation<'a> {
    networks: &'a Networks,
    examples: Vec<Example>,
    references: Vec<RgbImage>,
    subjects: Vec<Arc<EncodedSubject>>,
    gallery: Vec<PictureFeatures>,
    bar: ProgressBar,
}

impl<'a> Evaluation<'a> {
    fn prepare(networks: &'a Networks, arguments: &EvalArguments) -> Result<Self> {
        let count = arguments.picture_count();
        let bar = progress(arguments);
        let examples: Vec<Example> = (0..count.next_multiple_of(GALLERY)).map(Example::new).collect();
        let mut references = Vec::new();
        let (mut subjects, mut gallery) = (Vec::new(), Vec::new());
        bar.set_message("encoding subjects");
        for example in &examples {
            let reference = example.reference(networks.pipeline.resolution)?;
            if references.len() < count {
                subjects.push(Arc::new(networks.pipeline.encode(&reference)?));
                references.push(reference.clone());
            }
            gallery.push(networks.look_at_reference(&reference)?);
            bar.inc(1);
        }
        Ok(Self { networks, examples, references, subjects, gallery, bar })
    }

    fn report(&self, arguments: &EvalArguments, options: &SamplingOptions) -> Result<Report> {
        let count = self.subjects.len();
        let without = SamplingOptions { guidance_subject: PerScale::All(0.0), ..options.clone() };
        let started = Instant::now();
        let pictures = self.make(count, options, "making pictures")?;
        let seconds = started.elapsed().as_secs_f64() / count.max(1) as f64;
        let made = self.judged(&pictures)?;
        let unguided = self.judged(&self.make(count, &without, "making pictures without subject guidance")?)?;
        let side = self.networks.side();
        let real = (0..count).map(|number| Ok(self.examples[number].target(side)?.0)).collect::<Result<Vec<_>>>()?;
        if let Some(path) = &arguments.grid {
            sweep::write(path, &self.grid(&pictures))?;
        }
        let scenes = self.scenes(arguments.scene_count())?;
        Ok(Report {
            pictures: count,
            made,
            identity_retrieval_without_subject_guidance: unguided.identity_retrieval,
            identity_retrieval_judge_without_subject_guidance: unguided.identity_retrieval_judge,
            dino_similarity_without_subject_guidance: unguided.dino_similarity,
            real: self.judged(&real)?,
            seconds_per_image: self.seconds_alone(options)?,
            seconds_per_image_in_batches: Some(seconds),
            sweep: self.swept(arguments, options)?,
            ..scenes
        })
    }

    fn make(&self, count: usize, options: &SamplingOptions, message: &'static str) -> Result<Vec<RgbImage>> {
        self.bar.set_message(message);
        let examples = &self.examples[..count];
        self.networks.make(examples, &self.subjects[..count], options, |made| self.bar.inc(made as u64))
    }

    /// Measures the pictures of the first examples, one per example.
    fn judged(&self, pictures: &[RgbImage]) -> Result<Fidelity> {
        let pairs = pictures.iter().zip(&self.examples);
        let seen = pairs.map(|(picture, example)| self.networks.look(picture, example.name()));
        let seen = seen.collect::<Result<Vec<_>>>()?;
        let mut counts = Counts::default();
        for (number, impression) in seen.iter().enumerate() {
            self.count(&mut counts, number, impression);
        }
        Ok(counts.fidelity())
    }

    fn count(&self, counts: &mut Counts, number: usize, seen: &PictureFeatures) {
        let first = number / GALLERY * GALLERY;
        let gallery = &self.gallery[first..first + GALLERY];
        let right = Some(number - first);
        let dino: Vec<Vec<f32>> = gallery.iter().map(|one| one.dino.clone()).collect();
        counts.found.push(measures::nearest(&seen.dino, &dino) == right);
        counts.likeness.push(f64::from(measures::cosine(&seen.dino, &self.gallery[number].dino)));
        let example = &self.examples[number];
        if let Some(markings) = &seen.markings {
            counts.emblem.extend(example.emblem().map(|emblem| markings.emblem == emblem));
            counts.pattern.extend(example.pattern().map(|pattern| markings.pattern == pattern));
        }
        let Some(judgement) = &seen.judgement else { return };
        let judged = gallery.iter().filter_map(|one| one.judgement.as_ref());
        let judged: Vec<Vec<f32>> = judged.map(|judgement| judgement.identity.clone()).collect();
        counts.found_by_judge.push(measures::nearest(&judgement.identity, &judged) == right);
        counts.kind.push(judgement.kind == example.kind());
        counts.scene.push(judgement.scene == example.scene());
        if example.is_new_pair {
            counts.scene_of_new_pairs.push(judgement.scene == example.scene());
        }
    }

    /// Measures detection, naming and reconstruction on pictures that the drawn world renders.
    fn scenes(&self, count: usize) -> Result<Report> {
        let (mut boxes, mut names, mut losses) = (Vec::new(), Vec::new(), Vec::new());
        self.bar.set_message("looking for subjects");
        for number in 0..count {
            let example = Example::new(number);
            let (picture, Bounds { left, top, right, bottom }) = example.target(self.networks.side())?;
            let truth = [left, top, right, bottom].map(|edge| edge as f32);
            if let Some((found, _)) = self.networks.detect(&picture, example.name())? {
                boxes.push(measures::overlap(found, truth) >= 0.5);
            }
            if let Some(namer) = &self.networks.finder.namer {
                names.push(namer.name(&picture, &|| true)?.as_deref() == Some(example.name()));
            }
            if let Some(round_trip) = &self.networks.round_trip {
                let schedule = &self.networks.pipeline.schedule;
                let (small, _) = example.target(round_trip.pixels(schedule).0)?;
                losses.push(measures::psnr(&small, &round_trip.picture(&small, schedule)?));
            }
            self.bar.inc(1);
        }
        Ok(Report {
            scenes: count,
            box_iou50_rate: measures::share(boxes),
            naming_accuracy: measures::share(names),
            psnr_db: measures::average(losses),
            ..Report::default()
        })
    }

    /// Returns the median time in seconds of a few pictures generated one by one, starting at the cut-out.
    fn seconds_alone(&self, options: &SamplingOptions) -> Result<Option<f64>> {
        self.bar.set_message("timing");
        let mut seconds = Vec::new();
        for (example, reference) in self.examples.iter().zip(&self.references).rev().take(TIMED) {
            let started = Instant::now();
            let subject = Arc::new(self.networks.pipeline.encode(reference)?);
            self.networks.make(std::slice::from_ref(example), &[subject], options, |_| ())?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds.get(seconds.len() / 2).copied())
    }

    fn swept(&self, arguments: &EvalArguments, options: &SamplingOptions) -> Result<Vec<SweepPoint>> {
        let Some(path) = &arguments.sweep else { return Ok(Vec::new()) };
        let mut points = Vec::new();
        for (text, subject) in sweep::TEXT.iter().flat_map(|text| sweep::SUBJECT.map(|subject| (*text, subject))) {
            let options = SamplingOptions {
                guidance_text: PerScale::All(text),
                guidance_subject: PerScale::All(subject),
                ..options.clone()
            };
            let pictures = self.make(self.subjects.len().min(SWEPT), &options, "sweeping guidance")?;
            let fidelity = self.judged(&pictures)?;
            points.push(SweepPoint { guidance_text: text, guidance_subject: subject, fidelity });
        }
        sweep::write(path, &sweep::draw(&points))?;
        Ok(points)
    }

    /// Draws the first references beside their results.
    fn grid(&self, pictures: &[RgbImage]) -> RgbImage {
        let rows = self.references.iter().zip(pictures).zip(&self.examples).take(GRID);
        let rows: Vec<SheetRow<'_>> = rows
            .map(|((subject, picture), example)| SheetRow {
                subject,
                caption: example.caption.clone(),
                results: std::slice::from_ref(picture),
            })
            .collect();
        contact_sheet(&rows)
    }
}

/// Measures, with one entry per picture.
#[derive(Default)]
struct Counts {
    found: Vec<bool>,
    likeness: Vec<f64>,
    found_by_judge: Vec<bool>,
    kind: Vec<bool>,
    scene: Vec<bool>,
    scene_of_new_pairs: Vec<bool>,
    emblem: Vec<bool>,
    pattern: Vec<bool>,
}

impl Counts {
    fn fidelity(self) -> Fidelity {
        Fidelity {
            marking_accuracy: measures::share(self.emblem.iter().chain(&self.pattern).copied()),
            emblem_accuracy: measures::share(self.emblem),
            identity_retrieval: measures::share(self.found),
            identity_retrieval_judge: measures::share(self.found_by_judge),
            dino_similarity: measures::average(self.likeness),
            scene_accuracy: measures::share(self.scene),
            scene_accuracy_new_pairs: measures::share(self.scene_of_new_pairs),
            kind_accuracy: measures::share(self.kind),
        }
    }
}

/// Creates the progress bar over generation and analysis.
fn progress(arguments: &EvalArguments) -> ProgressBar {
    let count = arguments.picture_count();
    let points = sweep::TEXT.len() * sweep::SUBJECT.len();
    let swept = if arguments.sweep.is_some() { points * count.min(SWEPT) } else { 0 };
    progress_bar(count.next_multiple_of(GALLERY) + 2 * count + arguments.scene_count() + swept, arguments.json)
}
