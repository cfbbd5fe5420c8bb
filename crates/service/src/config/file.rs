//! The layer of the configuration file.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    given::{Form, Given, MAX_BYTES, Origin},
    nearest::hint,
    settings::{Setting, settings},
};

/// The file that is read if no file is named.
pub const DEFAULT_FILE: &str = "echogen.toml";

/// Reads the named file, or the default one if it exists.
pub(super) fn read(named: Option<PathBuf>) -> Result<Vec<Given>, Vec<String>> {
    let path = match named {
        Some(path) => path,
        None if Path::new(DEFAULT_FILE).is_file() => PathBuf::from(DEFAULT_FILE),
        None => return Ok(Vec::new()),
    };
    let text = text_of(&path).map_err(|error| vec![error])?;
    parse(&path, &text)
}

/// Returns a file's text, up to the size limit.
fn text_of(path: &Path) -> Result<String, String> {
    let fault = |error: std::io::Error| format!("cannot read the configuration file {}: {error}", path.display());
    let mut text = String::new();
    File::open(path).map_err(fault)?.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(fault)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("{} is no configuration file: it has more than {MAX_BYTES} bytes", path.display()));
    }
    Ok(text)
}

/// Parses a file's text and reports all errors at once.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Given>, Vec<String>> {
    let mut reading = Reading { path, text, given: Vec::new(), errors: Vec::new() };
    match DeTable::parse(text) {
        Ok(table) => reading.table(&[], table.get_ref()),
        // The TOML library's full message also quotes the line, which may contain a secret, so only its summary is
        // used.
        Err(error) => {
            let line = reading.line(error.span().map_or(0, |span| span.start));
            let message = error.message().replace('\n', ", ");
            reading.errors.push(format!("{}, line {line}: {message}", path.display()));
        }
    }
    if reading.errors.is_empty() { Ok(reading.given) } else { Err(reading.errors) }
}

struct Reading<'a> {
    path: &'a Path,
    text: &'a str,
    given: Vec<Given>,
    errors: Vec<String>,
}

impl Reading<'_> {
    fn table(&mut self, above: &[String], table: &DeTable<'_>) {
        for (key, value) in table {
            let path = [above, &[key.get_ref().to_string()]].concat();
            let line = self.line(key.span().start);
            if let Err(message) = self.entry(&path, line, value) {
                self.errors.push(message);
            }
        }
    }

    fn entry(&mut self, path: &[String], line: usize, value: &Spanned<DeValue<'_>>) -> Result<(), String> {
        let name = path.join(".");
        let place = || format!("{name} in {}, line {line}", self.path.display());
        let is_table = settings().sections.iter().any(|section| section.name == name);
        match (setting_of(path), value.get_ref()) {
            (None, DeValue::Table(table)) if is_table => {
                self.table(path, table);
                Ok(())
            }
            (None, _) if is_table => Err(format!("{} is a section; write [{name}] above its settings", place())),
            (None, _) => {
                let known = settings().all.iter().map(Setting::name).collect::<Vec<_>>();
                let shown: String = name.chars().take(80).collect();
                let hint = hint(&shown, known.iter().map(String::as_str));
                Err(format!("{}, line {line}: there is no setting {shown}{hint}", self.path.display()))
            }
            (Some((setting, form)), value) => {
                // The value of a `_file` setting is a text, whatever the type of the setting itself is.
                let value = json(value).ok_or_else(|| format!("{} is a date or a table", place()))?;
                let is_empty = value.as_str().is_some_and(|text| text.trim().is_empty());
                if !is_empty {
                    let origin = Origin::File { path: self.path.to_owned(), line };
                    self.given.push(Given::from_value(setting, form, value, origin)?);
                }
                Ok(())
            }
        }
    }

    fn line(&self, start: usize) -> usize {
        self.text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1
    }
}

/// Returns the setting of that name, or the secret of that name without `_file`.
fn setting_of(path: &[String]) -> Option<(&'static Setting, Form)> {
    let find = |path: &[String]| settings().all.iter().find(|setting| setting.path == path);
    if let Some(setting) = find(path) {
        return Some((setting, Form::Value));
    }
    let (last, above) = path.split_last()?;
    let secret = find(&[above, &[last.strip_suffix("_file")?.to_owned()]].concat())?;
    secret.is_secret().then_some((secret, Form::File))
}

/// Converts the value to JSON; `None` for types that no setting has.
fn json(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Boolean(flag) => (*flag).into(),
        DeValue::Integer(number) => {
            let read = |text: &str| i128::from_str_radix(text, number.radix()).ok();
            let whole = read(number.as_str())?;
            u64::try_from(whole).map(Value::from).or_else(|_| i64::try_from(whole).map(Value::from)).ok()?
        }
        // JSON has neither infinities nor NaN. They become texts, which are rejected as numbers and quoted as they
        // were written.
        DeValue::Float(number) => match number.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
            Some(number) => number.into(),
            None => number.as_str().into(),
        },
        DeValue::Array(values) => values.iter().map(|value| json(value.get_ref())).collect::<Option<Vec<_>>>()?.into(),
        DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}
