//! The report: checks with what to do, and tables, as Markdown or JSON.

use std::fmt::Write;

use serde::Serialize;

/// What was found on a machine.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Version of the program.
    pub version: String,
    /// Whether every check passed.
    pub passed: bool,
    /// What must hold.
    pub checks: Vec<Check>,
    /// What was measured.
    pub sections: Vec<Section>,
    /// What was not examined, each with the reason.
    pub skipped: Vec<String>,
}

/// Something that must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// What was found, in a sentence.
    pub found: String,
    /// What to do if it does not hold.
    pub advice: String,
}

/// A table with a title.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Section {
    /// The title.
    pub title: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows, each with as many cells as there are columns.
    pub rows: Vec<Vec<String>>,
    /// Remarks below the table.
    pub notes: Vec<String>,
}

impl Section {
    /// Creates an empty table.
    pub(crate) fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    /// Adds a remark.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), passed: true, ..Self::default() }
    }

    /// Records whether something holds.
    pub(crate) fn check(&mut self, name: &str, passed: bool, found: impl Into<String>, advice: &str) {
        self.passed &= passed;
        let (name, advice) = (name.to_owned(), advice.to_owned());
        self.checks.push(Check { name, passed, found: found.into(), advice });
    }

    /// Records that a part was not examined.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        self.skipped.push(format!("{name}: {reason}"));
    }

    /// Runs one part. Its error is a failed check.
    pub(crate) fn part<T>(&mut self, name: &str, part: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> Option<T> {
        match part(self) {
            Ok(value) => Some(value),
            Err(error) => {
                let advice =
                    "give this report with the version to the authors; the other parts say whether the device works";
                self.check(name, false, format!("failed: {error:#}").replace('\n', " "), advice);
                None
            }
        }
    }

    /// Returns the report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("# echogen doctor {}\n\n", self.version);
        let failed = self.checks.iter().filter(|check| !check.passed).count();
        let verdict = match failed {
            0 => format!("All {} checks passed.", self.checks.len()),
            _ => format!("{failed} of {} checks failed.", self.checks.len()),
        };
        push(&mut text, format_args!("{verdict}\n\n| | check | found |\n|---|---|---|\n"));
        for Check { name, passed, found, .. } in &self.checks {
            let mark = if *passed { "ok" } else { "FAILED" };
            push(&mut text, format_args!("| {mark} | {} | {} |\n", cell(name), cell(found)));
        }
        for check in self.checks.iter().filter(|check| !check.passed) {
            push(&mut text, format_args!("\n- **{}**: {}. To do: {}.\n", check.name, check.found, check.advice));
        }
        self.sections.iter().for_each(|section| push(&mut text, format_args!("\n{}", section.markdown())));
        if !self.skipped.is_empty() {
            text.push_str("\n## Not examined\n\n");
            self.skipped.iter().for_each(|skipped| push(&mut text, format_args!("- {skipped}\n")));
        }
        text
    }
}

impl Section {
    fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.title);
        if !self.rows.is_empty() {
            push(&mut text, format_args!("| {} |\n|{}\n", self.columns.join(" | "), "---|".repeat(self.columns.len())));
        }
        for row in &self.rows {
            // A row may end early, where something did not fit into the memory.
            let cells = row.iter().map(|text| cell(text)).chain(std::iter::repeat("-".to_owned()));
            let cells: Vec<_> = cells.take(self.columns.len()).collect();
            push(&mut text, format_args!("| {} |\n", cells.join(" | ")));
        }
        for note in &self.notes {
            push(&mut text, format_args!("\n{note}\n"));
        }
        text
    }
}

/// A bar would end a cell.
fn cell(text: &str) -> String {
    text.replace('|', "/").replace('\n', " ")
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    text.write_fmt(more).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_part_is_a_failed_check_with_what_to_do() {
        let mut report = Report::new();
        report.check("device", true, "cpu", "none");
        assert_eq!(report.part("numbers", |_| Ok(3)), Some(3));
        assert!(report.passed);
        let failed: Option<()> = report.part("pictures", |_| anyhow::bail!("no | memory\nleft"));
        assert!(failed.is_none() && !report.passed);
        let mut section = Section::new("Rates", &["what", "rate"]);
        section.row(["copy".to_owned(), "12 GB/s".to_owned()]);
        report.sections.push(section);
        report.skip("fixtures", "no folder");
        let text = report.markdown();
        for expected in [
            "1 of 2 checks failed.",
            "| FAILED | pictures | failed: no / memory left |",
            "To do: give this report",
            "| what | rate |\n|---|---|\n| copy | 12 GB/s |",
            "- fixtures: no folder",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
