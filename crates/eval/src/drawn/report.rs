//! The report of an evaluation, as a table and as JSON.

use serde::Serialize;

/// How well pictures match subject and caption. Shares are from 0 to 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Fidelity {
    /// Share of pictures whose subject is retrieved among 50 by DINOv2's features of the cut-out.
    pub(crate) identity_retrieval: Option<f64>,
    /// As `identity_retrieval`, by the judge's identity embedding.
    pub(crate) identity_retrieval_judge: Option<f64>,
    /// Mean cosine similarity of DINOv2's features of result and reference.
    pub(crate) dino_similarity: Option<f64>,
    /// Share of pictures in which the judge recognises the requested scene.
    pub(crate) scene_accuracy: Option<f64>,
    /// As `scene_accuracy`, for pairs of kind and scene that are held out from training.
    pub(crate) scene_accuracy_new_pairs: Option<f64>,
    /// Share of pictures in which the judge recognises the requested kind.
    pub(crate) kind_accuracy: Option<f64>,
    /// Share of the subjects' markings, emblems and patterns alike, that the judge of markings recognises.
    pub(crate) marking_accuracy: Option<f64>,
    /// As `marking_accuracy`, of emblems alone: disc, star, heart, square.
    pub(crate) emblem_accuracy: Option<f64>,
}

/// One point of the sweep.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct SweepPoint {
    /// Strength of text guidance.
    pub(crate) guidance_text: f64,
    /// Strength of subject guidance.
    pub(crate) guidance_subject: f64,
    /// The measures at this point.
    #[serde(flatten)]
    pub(crate) fidelity: Fidelity,
}

/// The whole report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Report {
    /// Name of the bundle.
    pub(crate) bundle: String,
    /// Number of pictures generated and measured.
    pub(crate) pictures: usize,
    /// Number of scenes in which detection was measured.
    pub(crate) scenes: usize,
    /// Measures of the generated pictures.
    #[serde(flatten)]
    pub(crate) made: Fidelity,
    /// As `identity_retrieval`, with subject guidance 0.
    pub(crate) identity_retrieval_without_subject_guidance: Option<f64>,
    /// As `identity_retrieval_judge`, with subject guidance 0.
    pub(crate) identity_retrieval_judge_without_subject_guidance: Option<f64>,
    /// As `dino_similarity`, with subject guidance 0.
    pub(crate) dino_similarity_without_subject_guidance: Option<f64>,
    /// Mean PSNR of the visual tokenizer's reconstructions in decibels.
    pub(crate) psnr_db: Option<f64>,
    /// Share of scenes in which the detector's best box has an IoU of at least 0.5 with the subject's.
    pub(crate) box_iou50_rate: Option<f64>,
    /// Share of scenes in which the namer returns the kind's name.
    pub(crate) naming_accuracy: Option<f64>,
    /// Median time in seconds for one picture from cut-out and caption, generated alone.
    pub(crate) seconds_per_image: Option<f64>,
    /// Time in seconds per picture when generated in batches.
    pub(crate) seconds_per_image_in_batches: Option<f64>,
    /// The same measures on pictures rendered by the drawn world: the upper bound for a generator.
    pub(crate) real: Fidelity,
    /// Measures at other guidance strengths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sweep: Vec<SweepPoint>,
}

/// A row of the table: measure, value, target, value of real pictures.
struct Line(&'static str, String, &'static str, String);

impl Report {
    /// Formats the report as a table.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{}: {} pictures of subjects that training never saw, {} scenes\n\n",
            self.bundle, self.pictures, self.scenes
        );
        text.push_str(&row(&Line("", "reached".to_owned(), "target", "real".to_owned())));
        for line in self.fidelity_lines().iter().chain(&self.other_lines()) {
            text.push_str(&row(line));
        }
        text.push_str("\nReal: the same measures of pictures that the world draws itself. Chance among 50 is 2 %;\n");
        text.push_str("who knows the kind alone finds every fourth subject.\n");
        text + &self.sweep_table()
    }

    fn fidelity_lines(&self) -> [Line; 11] {
        let (made, real) = (&self.made, &self.real);
        let without = |value| Line("  without subject guidance", percent(value), "", String::new());
        [
            Line(
                "subject among 50, DINOv2",
                percent(made.identity_retrieval),
                ">= 60 %",
                percent(real.identity_retrieval),
            ),
            without(self.identity_retrieval_without_subject_guidance),
            Line(
                "subject among 50, judge",
                percent(made.identity_retrieval_judge),
                ">= 60 %",
                percent(real.identity_retrieval_judge),
            ),
            without(self.identity_retrieval_judge_without_subject_guidance),
            Line("likeness to the reference, DINOv2", number(made.dino_similarity), "", number(real.dino_similarity)),
            Line(
                "  without subject guidance",
                number(self.dino_similarity_without_subject_guidance),
                "",
                String::new(),
            ),
            Line("scene right", percent(made.scene_accuracy), ">= 85 %", percent(real.scene_accuracy)),
            Line(
                "  in scenes new for the kind",
                percent(made.scene_accuracy_new_pairs),
                "",
                percent(real.scene_accuracy_new_pairs),
            ),
            Line("kind right", percent(made.kind_accuracy), ">= 90 %", percent(real.kind_accuracy)),
            Line("markings right", percent(made.marking_accuracy), ">= 60 %", percent(real.marking_accuracy)),
            Line("  emblems alone", percent(made.emblem_accuracy), "", percent(real.emblem_accuracy)),
        ]
    }

    fn other_lines(&self) -> [Line; 5] {
        let unit = |value: Option<f64>, unit| value.map_or_else(dash, |value| format!("{value:.2} {unit}"));
        let line = |what, reached, target| Line(what, reached, target, String::new());
        [
            line("tokenizer, there and back", unit(self.psnr_db, "dB"), ">= 24 dB"),
            line("box right (IoU >= 0.5)", percent(self.box_iou50_rate), ">= 90 %"),
            line("named right", percent(self.naming_accuracy), ">= 90 %"),
            line("one picture alone", unit(self.seconds_per_image, "s"), "<= 5 s"),
            line("a picture among many", unit(self.seconds_per_image_in_batches, "s"), ""),
        ]
    }

    fn sweep_table(&self) -> String {
        if self.sweep.is_empty() {
            return String::new();
        }
        let mut text =
            "\nguidance: text  subject   scene right   kind right  subject among 50 (DINOv2, judge)\n".to_owned();
        for SweepPoint { guidance_text, guidance_subject, fidelity } in &self.sweep {
            text.push_str(&format!(
                "{guidance_text:>14}  {guidance_subject:>7}   {:>11}  {:>11}  {:>10} {:>10}\n",
                percent(fidelity.scene_accuracy),
                percent(fidelity.kind_accuracy),
                percent(fidelity.identity_retrieval),
                percent(fidelity.identity_retrieval_judge),
            ));
        }
        text
    }
}

fn row(Line(what, reached, target, real): &Line) -> String {
    format!("{:<36}{reached:>10}  {target:>9}  {real:>9}", what).trim_end().to_owned() + "\n"
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(dash, |share| format!("{:.1} %", share * 100.0))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(dash, |value| format!("{value:.3}"))
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_a_dash_and_null() {
        let report = Report { bundle: "mini".to_owned(), psnr_db: Some(24.5), ..Report::default() };
        let table = report.table();
        assert!(table.contains("tokenizer, there and back             24.50 dB   >= 24 dB\n"), "{table}");
        assert!(table.contains("named right                                  -    >= 90 %\n"), "{table}");
        let json = serde_json::to_value(&report).unwrap();
        for key in [
            "identity_retrieval",
            "identity_retrieval_without_subject_guidance",
            "scene_accuracy",
            "kind_accuracy",
            "marking_accuracy",
            "emblem_accuracy",
            "box_iou50_rate",
            "naming_accuracy",
            "seconds_per_image",
        ] {
            assert!(json[key].is_null() && json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["psnr_db"], 24.5);
    }
}
