//! `echogen segment`: shows what would be taken as the subject of a picture.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use echogen_imaging::{ImageFormat, PixelBox, RgbImage};
use echogen_models::subject_finder::SubjectFinder;
use echogen_protocol::{BoundingBox, FoundBy, IfNotFound, ImageSource, Job, MaskMode, Point, Subject};
use echogen_segmenter::{DetectError, Found, find_subject};
use echogen_service::{
    Exit, Failure,
    config::ServiceConfig,
    console::{print_json, print_line},
    picture_file,
};

use crate::values;

pub(crate) const SEGMENT_EXAMPLES: &str = "\
Examples:
  Cut out the cat, by its outline, where the bundle has SAM:
    echogen segment park.jpg --name cat --mask sam --out out/
  The cat at column 420, row 180, if there are several:
    echogen segment park.jpg --name cat --point 420,180

OUT/cutout.png is the subject with everything else painted white, OUT/overlay.png the picture with
box, name and score drawn on it. Without --name the bundle's namer decides; without a detector in
the bundle, the whole picture or --box is the subject.";

/// File names of the cut-out and of the picture with the box drawn on it, in the folder OUT.
const CUTOUT: &str = "cutout.png";
const OVERLAY: &str = "overlay.png";

#[derive(Args, Debug, Clone)]
pub(crate) struct SegmentArguments {
    /// The picture
    #[arg(value_name = "PICTURE")]
    pub(crate) picture: PathBuf,

    /// What the subject is called, such as `dog`; otherwise the namer is asked
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,

    /// Where the subject is: `left,top,right,bottom` in pixels; otherwise the detector looks for it
    #[arg(long = "box", value_name = "BOX", value_parser = values::bounding_box)]
    pub(crate) bounding_box: Option<BoundingBox>,

    /// A place on the subject, where there are several: `x,y` in pixels
    #[arg(long, value_name = "POINT", value_parser = values::point)]
    pub(crate) point: Option<Point>,

    /// What to do if there is no such subject
    #[arg(long, value_enum, default_value = "fail")]
    pub(crate) if_not_found: NotFoundPolicy,

    /// Folder for the pictures
    #[arg(short, long, value_name = "OUT", default_value = "out")]
    pub(crate) out: PathBuf,
}

/// What to do if the detector finds no such subject.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum NotFoundPolicy {
    /// Say so and fail
    Fail,
    /// Take the whole picture
    WholeImage,
}

impl From<NotFoundPolicy> for IfNotFound {
    fn from(policy: NotFoundPolicy) -> Self {
        match policy {
            NotFoundPolicy::Fail => Self::Fail,
            NotFoundPolicy::WholeImage => Self::WholeImage,
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &SegmentArguments, config: &ServiceConfig, as_json: bool) -> Result<Exit, Failure> {
    let subject = subject(arguments, config.job.mask)?;
    let picture = picture_file::read(&arguments.picture)?;
    let (bundle, compute) = (config.model.open()?, config.model.compute()?);
    let finder = SubjectFinder::load(&bundle, &compute.device, compute.dtype)
        .map_err(|error| Failure::usage(format!("cannot load the bundle {}: {}", bundle.name(), chain(&error))))?;
    let found = find_subject(&finder, &config.finder, &picture, &subject, &|| true).map_err(not_found)?;
    let paths = write(arguments, &picture, &found)?;
    report(&found, &paths, as_json);
    Ok(Exit::Success)
}

/// Builds the subject as in a job, and checks it against the same limits.
fn subject(arguments: &SegmentArguments, mask: Option<MaskMode>) -> Result<Subject, Failure> {
    let mut job = Job::new(ImageSource("picture".to_owned()), "the subject alone").with_id();
    job.subject.name = arguments.name.clone();
    job.subject.bounding_box = arguments.bounding_box;
    job.subject.point = arguments.point;
    job.subject.mask = mask.unwrap_or_default();
    job.subject.if_not_found = arguments.if_not_found.into();
    job.validate().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(job.subject)
}

fn not_found(error: DetectError) -> Failure {
    let message = chain(&error);
    match error {
        DetectError::NotFound(_) | DetectError::Failed(_) => Failure { exit: Exit::JobFailed, message },
        DetectError::Unsupported(_) | DetectError::BadName(_) => Failure::usage(message),
    }
}

/// Formats an error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}

/// Writes the cut-out and the overlay; returns their paths.
fn write(arguments: &SegmentArguments, picture: &RgbImage, found: &Found) -> Result<[String; 2], Failure> {
    let fault = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", arguments.out.display()));
    let BoundingBox { left, top, right, bottom } = found.bounding_box;
    let area = PixelBox { left, top, right, bottom };
    let boxed = echogen_imaging::white_outside(picture, area).map_err(|error| fault(&error))?;
    let cutout = found.mask.as_ref().map_or(boxed, |mask| echogen_imaging::white_outside_mask(picture, mask));
    let overlay =
        echogen_figures::overlay(picture, area, found.mask.as_ref(), &label(found)).map_err(|error| fault(&error))?;
    std::fs::create_dir_all(&arguments.out).map_err(|error| fault(&error))?;
    let file = |name: &str, picture: &RgbImage| {
        let path = arguments.out.join(name);
        let png = echogen_imaging::encode_image(picture, ImageFormat::Png, 100).map_err(|error| fault(&error))?;
        std::fs::write(&path, png).map_err(|error| fault(&error))?;
        Ok::<_, Failure>(path.display().to_string())
    };
    Ok([file(CUTOUT, &cutout)?, file(OVERLAY, &overlay)?])
}

/// Returns the overlay's label: name and score, or how the box was determined.
fn label(found: &Found) -> String {
    let name = found.name.as_deref().unwrap_or("subject");
    match (found.how, found.score) {
        (FoundBy::Detector, Some(score)) => format!("{name} {score:.2}"),
        (FoundBy::NotFound, _) => format!("no {name} found"),
        _ => name.to_owned(),
    }
}

fn report(found: &Found, [cutout, overlay]: &[String; 2], json: bool) {
    let area = found.bounding_box;
    if json {
        let found = serde_json::json!({
            "name": found.name, "score": found.score, "box": area, "how": found.how, "outline": found.mask.is_some(),
            "cutout": cutout, "overlay": overlay,
        });
        return print_json("segment", &found);
    }
    print_line(&format!("name   {}", found.name.as_deref().unwrap_or("(none)")));
    print_line(&format!("score  {}", found.score.map_or("(none)".to_owned(), |score| format!("{score:.2}"))));
    print_line(&format!("box    {},{},{},{}", area.left, area.top, area.right, area.bottom));
    let how = match found.how {
        FoundBy::Job => "the box was given",
        FoundBy::WholeImage => "the whole picture; nothing was looked for",
        FoundBy::Detector => "the detector found it",
        FoundBy::NotFound => "the whole picture; the detector found no such subject",
    };
    print_line(&format!("how    {how}"));
    print_line(cutout);
    print_line(overlay);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(how: FoundBy, score: Option<f64>) -> Found {
        let bounding_box = BoundingBox { left: 0, top: 0, right: 1, bottom: 1 };
        Found { bounding_box, mask: None, name: Some("dog".to_owned()), score, how }
    }

    #[test]
    fn labels_say_what_happened() {
        assert_eq!(label(&found(FoundBy::Detector, Some(0.876))), "dog 0.88");
        assert_eq!(label(&found(FoundBy::NotFound, Some(0.1))), "no dog found");
        assert_eq!(label(&found(FoundBy::Job, None)), "dog");
    }
}
