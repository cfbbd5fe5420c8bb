//! One value that a layer gives: parsed by the setting's type, with its origin, so that an error names the setting as
//! it was written.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{ServiceConfig, settings::Setting};

/// A size limit far above any configuration or secret, so that a wrong path, such as a picture's, is not read
/// completely.
pub(super) const MAX_BYTES: u64 = 1024 * 1024;

/// Where a setting's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The default.
    Default,
    /// The file.
    File {
        /// Its path.
        path: PathBuf,
        /// The line of the setting.
        line: usize,
    },
    /// A variable of the environment.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A command-line flag.
    Flag {
        /// Its name, with the dashes.
        flag: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "file {}, line {line}", path.display()),
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::Flag { flag } => write!(f, "flag {flag}"),
        }
    }
}

/// Whether a secret is given directly or as the path of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The value itself.
    Value,
    /// The path of a file that contains the value.
    File,
}

/// One setting that a layer contains.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) setting: &'static Setting,
    form: Form,
    /// `None` resets the setting to its default.
    pub(super) value: Option<Value>,
    pub(super) origin: Origin,
}

impl Given {
    /// Parses a value that was given as text.
    pub(super) fn from_text(setting: &'static Setting, form: Form, text: &str, origin: Origin) -> Result<Self, String> {
        let given = Self { setting, form, value: None, origin };
        if text.trim().is_empty() {
            return Ok(given);
        }
        let value = match form {
            Form::Value => setting.kind.read(text).map_err(|wrong| given.error(&wrong))?,
            Form::File => text.trim().into(),
        };
        Self { value: Some(value), ..given }.checked()
    }

    /// Parses a value that has a type, as in the file.
    pub(super) fn from_value(
        setting: &'static Setting,
        form: Form,
        value: Value,
        origin: Origin,
    ) -> Result<Self, String> {
        let given = Self { setting, form, value: Some(value.clone()), origin };
        match form {
            Form::Value => setting.kind.check(&value).map_err(|wrong| given.error(&wrong))?,
            Form::File if value.is_string() => {}
            Form::File => return Err(given.error("is no path; write a text in quotation marks")),
        }
        given.checked()
    }

    /// Checks the value against the setting's own type.
    fn checked(self) -> Result<Self, String> {
        let (Form::Value, Some(value)) = (self.form, &self.value) else { return Ok(self) };
        let mut tree = Map::new();
        insert(&mut tree, &self.setting.path, value.clone());
        match serde_json::from_value::<ServiceConfig>(tree.into()) {
            Ok(_) => Ok(self),
            Err(error) => Err(self.error(&self.without_secret(&error.to_string()))),
        }
    }

    /// Removes the value from a type's error message if the setting is a secret.
    fn without_secret(&self, message: &str) -> String {
        if !self.setting.is_secret() {
            return format!("cannot be used: {message}");
        }
        let texts = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty() && message.contains(text));
        let is_shown = match &self.value {
            Some(Value::Array(values)) => values.iter().any(texts),
            Some(value) => texts(value),
            None => false,
        };
        if is_shown { "cannot be used".to_owned() } else { format!("cannot be used: {message}") }
    }

    fn error(&self, message: &str) -> String {
        format!("{} {message}", self.spelled())
    }

    /// Returns the setting's name as it is written in the layer.
    pub(super) fn spelled(&self) -> String {
        let ending = |ending| if self.form == Form::File { ending } else { "" };
        match &self.origin {
            Origin::Default => self.setting.name(),
            Origin::File { path, line } => {
                format!("{}{} in {}, line {line}", self.setting.name(), ending("_file"), path.display())
            }
            Origin::Environment { variable } => variable.clone(),
            Origin::Flag { flag } => flag.clone(),
        }
    }

    /// Reads the file that contains the secret, if the setting is given as a file.
    pub(super) fn resolved(self) -> Result<Self, String> {
        let (Form::File, Some(Value::String(path))) = (self.form, &self.value) else { return Ok(self) };
        let fault = |what: &str| self.error(&format!("names {path}, which {what}"));
        let text = secret_in(Path::new(path)).map_err(|error| fault(&error))?;
        let value = self.setting.kind.read(&text).map_err(|wrong| fault(&wrong))?;
        let as_value = Self { form: Form::Value, value: Some(value), ..self.clone() };
        let checked = as_value.checked().map_err(|_| fault("holds no such secret"))?;
        // The form stays, so that a later error names the path, which the user has to change.
        Ok(Self { form: Form::File, ..checked })
    }
}

/// Returns the text of a mounted secret; the error says what is wrong with the file.
fn secret_in(path: &Path) -> Result<String, String> {
    let fault = |error: std::io::Error| format!("cannot be read: {error}");
    let mut text = String::new();
    File::open(path).map_err(fault)?.take(MAX_BYTES).read_to_string(&mut text).map_err(fault)?;
    if text.trim().is_empty() { Err("is empty".to_owned()) } else { Ok(text) }
}

/// Puts a value at the setting's path into the tree.
pub(super) fn insert(tree: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [name] => drop(tree.insert(name.clone(), value)),
        [table, rest @ ..] => {
            let inner = tree.entry(table).or_insert_with(|| Map::new().into());
            if let Value::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}
