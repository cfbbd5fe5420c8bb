//! The report of an evaluation on DreamBench, as a table and as JSON.

use echogen_protocol::FoundBy;
use serde::Serialize;

use super::judges::Scores;

/// The result for one subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    /// Name of the subject, such as `dog6`.
    pub(super) subject: String,
    /// Class name, such as `dog`.
    pub(super) class: String,
    /// Number of pictures measured.
    pub(super) pictures: usize,
    /// Number of pictures generated in this run.
    pub(super) made: usize,
    /// How the subject was found in its photograph; absent if no picture was generated.
    pub(super) how: Option<FoundBy>,
    /// Means over the pictures.
    #[serde(flatten)]
    pub(super) scores: Scores,
    /// Means over pairs of photographs.
    pub(super) real: Scores,
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Report {
    /// Name of the bundle; absent if the pictures were made elsewhere.
    bundle: Option<String>,
    /// Number of pictures measured.
    pictures: usize,
    /// Number of pictures generated in this run.
    made: usize,
    /// Means over the subjects, which all have the same number of pictures.
    #[serde(flatten)]
    scores: Scores,
    /// The same metrics between photographs: the reference for perfect similarity.
    real: Scores,
    /// Results by subject.
    subjects: Vec<Row>,
}

impl Report {
    /// Computes the means over all subjects.
    pub(super) fn new(bundle: Option<String>, subjects: Vec<Row>) -> Self {
        let mean = |scores: fn(&Row) -> Scores| Scores::mean(&subjects.iter().map(scores).collect::<Vec<_>>());
        Self {
            bundle,
            pictures: subjects.iter().map(|row| row.pictures).sum(),
            made: subjects.iter().map(|row| row.made).sum(),
            scores: mean(|row| row.scores),
            real: mean(|row| row.real),
            subjects,
        }
    }

    /// Formats the report as a table.
    pub(super) fn table(&self) -> String {
        let Self { pictures, made, subjects, .. } = self;
        let who = self.bundle.as_deref().unwrap_or("pictures made elsewhere");
        let mut text =
            format!("{who} on DreamBench: {} subjects, {pictures} pictures, {made} made now\n\n", subjects.len());
        text.push_str(&line("", ["DINO", "CLIP-I", "CLIP-T"].map(str::to_owned)));
        for row in subjects {
            text.push_str(&line(&row.subject, numbers(&row.scores)));
        }
        text.push_str(&line("all", numbers(&self.scores)));
        text.push_str(&line("the photographs themselves", numbers(&self.real)));
        text + &self.not_found()
    }

    /// Returns the subjects that the detector did not find.
    fn not_found(&self) -> String {
        let missed = self.subjects.iter().filter(|row| row.how == Some(FoundBy::NotFound));
        let missed: Vec<&str> = missed.map(|row| row.subject.as_str()).collect();
        match missed.is_empty() {
            true => String::new(),
            false => format!("\nNot found, so that the whole photograph was taken: {}\n", missed.join(", ")),
        }
    }
}

fn line(what: &str, [dino, clip_i, clip_t]: [String; 3]) -> String {
    format!("{what:<28}{dino:>8}{clip_i:>9}{clip_t:>9}\n")
}

fn numbers(scores: &Scores) -> [String; 3] {
    [scores.dino, scores.clip_i, scores.clip_t].map(|score| score.map_or("-".to_owned(), |score| format!("{score:.3}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(subject: &str, dino: f64, how: FoundBy) -> Row {
        let scores = Scores { dino: Some(dino), ..Scores::default() };
        let (subject, class) = (subject.to_owned(), "dog".to_owned());
        Row { subject, class, pictures: 4, made: 1, how: Some(how), scores, real: Scores::default() }
    }

    #[test]
    fn subjects_count_alike_and_what_is_missing_is_a_dash_and_null() {
        let rows = vec![row("dog", 0.5, FoundBy::Detector), row("dog6", 0.25, FoundBy::NotFound)];
        let report = Report::new(Some("mini".to_owned()), rows);
        let expected = "\
mini on DreamBench: 2 subjects, 8 pictures, 2 made now

                                DINO   CLIP-I   CLIP-T
dog                            0.500        -        -
dog6                           0.250        -        -
all                            0.375        -        -
the photographs themselves         -        -        -

Not found, so that the whole photograph was taken: dog6
";
        assert_eq!(report.table(), expected);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["dino"], &json["pictures"]), (&0.375.into(), &8.into()));
        assert!(json["clip_t"].is_null() && json.get("clip_t").is_some());
        assert_eq!((&json["subjects"][1]["dino"], &json["subjects"][1]["how"]), (&0.25.into(), &"not_found".into()));
    }
}
