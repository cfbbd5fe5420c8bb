//! The table of a batch: `results.csv`, a row for each picture and for each job that has none.
//!
//! Rows are written as jobs end and put in the order of the lines at the end, so memory holds a few bytes for each row. The
//! table of another set of jobs is not overwritten: a run whose table would lose jobs takes the next number.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use echogen_protocol::{ContentHash, Job, JobResult};
use echogen_service::embedded::{JobEnd, Outcome};

/// The columns; docs/batches.md describes them.
const HEADER: &str = "line,id,status,subject,name,prompt,seed,image,width,height,seconds,error";

/// The place of the id among them.
const ID: usize = 1;

/// Tables that one folder may have.
const MAX_TABLES: u32 = 10_000;

/// A table that is being written.
pub(crate) struct ResultsTable {
    out: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    length: u64,
    rows: Vec<Row>,
    ids: HashSet<u64>,
}

/// Where a job's rows are in the part that has been written.
struct Row {
    order: u64,
    at: u64,
    length: u64,
}

/// A finished table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    pub(crate) path: PathBuf,
    /// 1, or more if the folder had tables of other jobs.
    pub(crate) number: u32,
}

impl ResultsTable {
    /// Begins a table for the folder of results; unfinished rows are in `work`.
    pub(crate) fn begin(out: &Path, work: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(work)?;
        let part = work.join(format!("results-{}.part", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&part)?;
        let (file, out) = (BufWriter::new(file), out.to_owned());
        Ok(Self { out, part, file, length: 0, rows: Vec::new(), ids: HashSet::new() })
    }

    /// Adds the rows of a job, or of a line that is none.
    pub(crate) fn add(&mut self, end: &JobEnd<'_>) -> std::io::Result<()> {
        let rows = rows(end);
        self.file.write_all(rows.as_bytes())?;
        let length = rows.len() as u64;
        self.rows.push(Row { order: end.order, at: self.length, length });
        self.length += length;
        self.ids.extend(end.job.map(|job| short(job.id.as_str())));
        Ok(())
    }

    /// Puts the rows in order and gives the table its name. A run that was interrupted replaces no other table and takes no
    /// number of its own.
    pub(crate) fn finish(mut self, interrupted: bool) -> std::io::Result<Option<Table>> {
        let written = self.file.flush().and_then(|()| self.place()).and_then(|table| match table {
            Some(table) if !(interrupted && table.number > 1) => self.write(&table).map(|()| Some(table)),
            _ => Ok(None),
        });
        std::fs::remove_file(&self.part)?;
        written
    }

    /// Returns the first name that is free, or whose table has no job that this one lacks.
    fn place(&self) -> std::io::Result<Option<Table>> {
        for number in 1..=MAX_TABLES {
            let name = if number == 1 { "results.csv".to_owned() } else { format!("results-{number}.csv") };
            let path = self.out.join(name);
            if self.may_replace(&path)? {
                return Ok(Some(Table { path, number }));
            }
        }
        Ok(None)
    }

    fn may_replace(&self, path: &Path) -> std::io::Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let mut lines = BufReader::new(file).split(b'\n');
        if lines.next().transpose()?.is_none_or(|header| header != HEADER.as_bytes()) {
            return Ok(false);
        }
        for line in lines {
            let line = line?;
            // An id has neither commas nor quotation marks, and a row no line feed.
            let id = line.split(|byte| *byte == b',').nth(ID).unwrap_or_default();
            if !id.is_empty() && !self.ids.contains(&short(&String::from_utf8_lossy(id))) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(&mut self, table: &Table) -> std::io::Result<()> {
        self.rows.sort_unstable_by_key(|row| row.order);
        let part = self.file.get_mut();
        let unnamed = self.part.with_extension("csv");
        let mut whole = BufWriter::new(File::create(&unnamed)?);
        writeln!(whole, "{HEADER}")?;
        let mut at = None;
        for row in &self.rows {
            // Most rows follow each other in the file as they do in the table.
            if at != Some(row.at) {
                part.seek(SeekFrom::Start(row.at))?;
            }
            std::io::copy(&mut Read::by_ref(part).take(row.length), &mut whole)?;
            at = Some(row.at + row.length);
        }
        whole.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&unnamed, &table.path)
    }
}

/// Returns the rows of one end, each with its line feed.
fn rows(end: &JobEnd<'_>) -> String {
    let (status, result, error) = match &end.outcome {
        Outcome::Done(result) => ("done", Some(*result), ""),
        Outcome::Cached(result) => ("cached", Some(*result), ""),
        Outcome::Repeated => ("repeated", None, ""),
        Outcome::Failed(error) => ("failed", None, error.as_str()),
    };
    let job = end.job;
    let line = end.line.unwrap_or(end.order).to_string();
    let seconds = format!("{:.3}", end.seconds);
    let subject = job.map_or("", |job| shown(&job.subject.image.0));
    let found = result.and_then(|result| result.subject.as_ref()).and_then(|found| found.name.as_deref());
    let name = found.or_else(|| job.and_then(|job| job.subject.name.as_deref())).unwrap_or_default();
    let prompt = prompt(job, result);
    let id = job.map_or("", |job| job.id.as_str());
    let row = |[seed, image, width, height]: [&str; 4]| {
        let fields = [&line, id, status, subject, name, prompt, seed, image, width, height, &seconds, error];
        fields.map(field).join(",") + "\n"
    };
    let images = result.map_or(&[][..], |result| &result.images);
    let of_images = images.iter().map(|image| {
        let numbers = [image.seed.to_string(), image.width.to_string(), image.height.to_string()];
        row([&numbers[0], &image.key, &numbers[1], &numbers[2]])
    });
    if images.is_empty() { row([""; 4]) } else { of_images.collect() }
}

/// The prompt of the pictures, which a result knows better than the line that names it.
fn prompt<'a>(job: Option<&'a Job>, result: Option<&'a JobResult>) -> &'a str {
    let used = result.and_then(|result| result.parameters.as_ref()).map(|used| used.prompt.as_str());
    used.or_else(|| job.map(|job| job.prompt.as_str())).unwrap_or_default()
}

/// A picture's path or address; one that is the picture itself is only named.
fn shown(image: &str) -> &str {
    if image.starts_with("data:") { "data:" } else { image }
}

/// Quotes a field where it needs it (RFC 4180). What would end a row is a space.
fn field(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

/// The first eight bytes of SHA-256, which are small enough to keep for millions of ids.
fn short(id: &str) -> u64 {
    ContentHash::of(id.as_bytes()).as_bytes().iter().take(8).fold(0, |hash, byte| (hash << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use echogen_protocol::{JobId, ResultImage};
    use jiff::Timestamp;

    use super::*;

    fn job(id: &str) -> Job {
        Job { id: JobId(id.into()), ..Job::new("dog.png".into(), "a dog, \"wet\"\nand cold") }
    }

    fn result(job: &Job, seeds: &[u64]) -> JobResult {
        let image = |seed: &u64| ResultImage {
            key: format!("{}/image-{seed}.png", job.id),
            seed: *seed,
            width: 64,
            height: 48,
            sha256: ContentHash::of(b""),
            safety: None,
        };
        JobResult::completed(job, seeds.iter().map(image).collect(), "1", Timestamp::UNIX_EPOCH)
    }

    /// Writes the table of a run in which these jobs ended in this order.
    fn run(out: &Path, ids: &[&str], interrupted: bool) -> Option<Table> {
        let mut table = ResultsTable::begin(out, &out.join("work")).unwrap();
        for (order, id) in ids.iter().enumerate() {
            let job = job(id);
            let result = result(&job, &[7]);
            let order = order as u64 + 1;
            let outcome = Outcome::Done(&result);
            table.add(&JobEnd { job: Some(&job), line: Some(order), order, outcome, seconds: 1.0 }).unwrap();
        }
        table.finish(interrupted).unwrap()
    }

    #[test]
    fn a_row_for_each_picture_and_each_failure_in_the_order_of_the_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut table = ResultsTable::begin(folder.path(), &folder.path().join("work")).unwrap();
        let (first, second) = (job("one"), job("two"));
        let done = result(&second, &[7, 8]);
        let end = |job, line, order, outcome| JobEnd { job, line, order, outcome, seconds: 1.5 };
        table.add(&end(Some(&second), Some(9), 3, Outcome::Done(&done))).unwrap();
        table.add(&end(None, Some(4), 2, Outcome::Failed("no JSON, no job".into()))).unwrap();
        table.add(&end(Some(&first), None, 1, Outcome::Repeated)).unwrap();
        let table = table.finish(false).unwrap().unwrap();
        let text = std::fs::read_to_string(&table.path).unwrap();
        let prompt = "\"a dog, \"\"wet\"\" and cold\"";
        let expected = [
            HEADER.to_owned(),
            format!("1,one,repeated,dog.png,,{prompt},,,,,1.500,"),
            "4,,failed,,,,,,,,1.500,\"no JSON, no job\"".to_owned(),
            format!("9,two,done,dog.png,,{prompt},7,two/image-7.png,64,48,1.500,"),
            format!("9,two,done,dog.png,,{prompt},8,two/image-8.png,64,48,1.500,"),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        assert_eq!(std::fs::read_dir(folder.path().join("work")).unwrap().count(), 0, "nothing unfinished is left");
    }

    #[test]
    fn a_table_is_replaced_only_by_one_with_all_its_jobs() {
        let folder = tempfile::tempdir().unwrap();
        let numbers = |ids: &[&str], interrupted| run(folder.path(), ids, interrupted).map(|table| table.number);
        assert_eq!(numbers(&["a", "b"], false), Some(1));
        assert_eq!(numbers(&["a"], false), Some(2), "a smaller run takes a number of its own");
        assert_eq!(numbers(&["a"], false), Some(2));
        assert_eq!(numbers(&["c"], false), Some(3));
        assert_eq!(numbers(&["a", "b", "d"], false), Some(1), "a run that goes on replaces");
        assert_eq!(numbers(&["e"], true), None, "an interrupted run takes no new number");
        assert_eq!(numbers(&["d", "b", "a"], true), Some(1));
    }

    #[test]
    fn somebody_elses_table_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("results.csv"), "my,own,table\n").unwrap();
        assert_eq!(run(folder.path(), &["a"], false).unwrap().number, 2);
        assert_eq!(std::fs::read_to_string(folder.path().join("results.csv")).unwrap(), "my,own,table\n");
    }
}
