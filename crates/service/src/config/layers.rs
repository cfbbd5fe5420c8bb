//! The layers of the configuration (defaults < file < environment < flags), and the origin of each value.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    ServiceConfig, environment, file,
    settings::{Setting, settings},
};

/// What is printed in place of a secret.
const SET: &str = "(set)";

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
    value: Option<Value>,
    origin: Origin,
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
    fn spelled(&self) -> String {
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
    fn resolved(self) -> Result<Self, String> {
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
    File::open(path).map_err(fault)?.take(file::MAX_BYTES).read_to_string(&mut text).map_err(fault)?;
    if text.trim().is_empty() { Err("is empty".to_owned()) } else { Ok(text) }
}

fn insert(tree: &mut Map<String, Value>, path: &[String], value: Value) {
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

/// All errors of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// One message for each error.
    pub messages: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.messages.join("; "))
    }
}

impl std::error::Error for ConfigError {}

/// The sources of the layers.
#[derive(Clone, Default)]
pub struct Layers {
    /// The file that `--config` names.
    pub file: Option<PathBuf>,
    /// The variables of the environment.
    pub variables: Vec<(OsString, OsString)>,
    /// The flags that were given, with their texts.
    pub flags: Vec<(&'static Setting, Form, OsString)>,
}

impl Layers {
    /// Returns the environment of this process and the default file.
    pub fn of_process() -> Self {
        Self { variables: std::env::vars_os().collect(), ..Self::default() }
    }

    /// Reads all layers and checks that the settings do not contradict each other.
    ///
    /// # Errors
    ///
    /// All errors of all layers; each names the setting as it is written in its layer.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let loaded = self.read()?;
        let check = loaded.config.check();
        check.map_err(|message| ConfigError { messages: vec![loaded.as_written(&message)] })?;
        Ok(loaded)
    }

    /// Reads all layers, without the check for contradictions.
    pub(super) fn read(&self) -> Result<Loaded, ConfigError> {
        let (environment, warnings) = environment::read(&self.variables);
        let mut errors = Vec::new();
        let mut values: BTreeMap<String, Given> = BTreeMap::new();
        for layer in [file::read(self.named_file()), environment, self.given_flags()] {
            match layer.and_then(one_form_each) {
                Ok(layer) => values.extend(layer.into_iter().map(|given| (given.setting.name(), given))),
                Err(found) => errors.extend(found),
            }
        }
        // Only the layer that takes effect is resolved: the secret's file in a layer below it need not exist.
        for given in values.values_mut() {
            match given.clone().resolved() {
                Ok(resolved) => *given = resolved,
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(ConfigError { messages: errors });
        }
        let config = config_of(&values)?;
        Ok(Loaded { config, warnings, values })
    }

    fn named_file(&self) -> Option<PathBuf> {
        let variable =
            || self.variables.iter().find(|(name, value)| name == environment::CONFIG_VARIABLE && !value.is_empty());
        self.file.clone().or_else(|| variable().map(|(_, path)| path.into()))
    }

    fn given_flags(&self) -> Result<Vec<Given>, Vec<String>> {
        let (mut given, mut errors) = (Vec::new(), Vec::new());
        for (setting, form, text) in &self.flags {
            let ending = if *form == Form::File { "-file" } else { "" };
            let origin = Origin::Flag { flag: format!("--{}{ending}", setting.flag()) };
            let read = match text.to_str() {
                Some(text) => Given::from_text(setting, *form, text, origin),
                None => Err(format!("--{}{ending} is not UTF-8", setting.flag())),
            };
            match read {
                Ok(value) => given.push(value),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(given) } else { Err(errors) }
    }
}

/// Rejects a layer that gives a secret twice: as a value and as a file.
fn one_form_each(layer: Vec<Given>) -> Result<Vec<Given>, Vec<String>> {
    let twice = |(index, one): (usize, &Given)| {
        let other = layer[..index].iter().find(|other| other.setting.path == one.setting.path)?;
        Some(format!("{} and {} are both given; keep one of them", other.spelled(), one.spelled()))
    };
    let errors: Vec<String> = layer.iter().enumerate().filter_map(twice).collect();
    if errors.is_empty() { Ok(layer) } else { Err(errors) }
}

fn config_of(values: &BTreeMap<String, Given>) -> Result<ServiceConfig, ConfigError> {
    let mut tree = Map::new();
    for given in values.values() {
        if let Some(value) = &given.value {
            insert(&mut tree, &given.setting.path, value.clone());
        }
    }
    // This rarely fails, because each setting by itself was read as its type before.
    let config = serde_json::from_value::<ServiceConfig>(tree.into());
    let mut config = config.map_err(|error| ConfigError { messages: vec![error.to_string()] })?;
    // Installations that share a broker under different prefixes also share a Redis, so the cache's prefix follows
    // from it.
    if !values.contains_key("cache.prefix") {
        config.cache.redis.prefix = format!("{}:", config.broker.prefix);
    }
    Ok(config)
}

/// A configuration, and the origin of its values.
pub struct Loaded {
    /// The configuration.
    pub config: ServiceConfig,
    /// Possible mistakes: variables with our prefix that are no settings.
    pub warnings: Vec<String>,
    values: BTreeMap<String, Given>,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.shown().map(|shown| shown.to_string())).finish()
    }
}

/// A setting's effective value, in the form in which it may be printed.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// Its value in the syntax of the file; `None` if it has none, and `(set)` for a secret.
    pub value: Option<String>,
    /// Where the value comes from.
    pub origin: Origin,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}  # {}", self.name, self.value.as_deref().unwrap_or("(none)"), self.origin)
    }
}

impl Loaded {
    /// Returns every setting with its value and the value's origin.
    pub fn shown(&self) -> impl Iterator<Item = Shown> {
        settings().all.iter().map(|setting| {
            let given = self.values.get(&setting.name());
            let value = match given {
                Some(given) if given.value.is_some() => given.value.as_ref(),
                _ => setting.default.as_ref(),
            };
            let shown = |value| if setting.is_secret() { SET.to_owned() } else { setting.kind.written(value) };
            let origin = given.map_or(Origin::Default, |given| given.origin.clone());
            Shown { name: setting.name(), value: value.map(shown), origin }
        })
    }

    /// Rewrites a message so that settings have the names by which the user gave them, and no secret's text is in it.
    pub fn as_written(&self, message: &str) -> String {
        let secrets = self.values.values().filter(|given| given.setting.is_secret());
        let texts = secrets.filter_map(|given| given.value.as_ref()?.as_str());
        // Code that handles a secret keeps it out of its messages. This covers what only looks like a secret, such as
        // a password that was given as an address. Texts of up to three characters are skipped, because they would
        // match everywhere.
        let texts = texts.filter(|text| text.len() > 3);
        self.with_names(&texts.fold(message.to_owned(), |message, text| message.replace(text, SET)))
    }

    fn with_names(&self, message: &str) -> String {
        let continues = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut written = String::new();
        let mut rest = message;
        while let Some(start) = rest.find(continues) {
            written.push_str(&rest[..start]);
            rest = &rest[start..];
            let end = rest.find(|c: char| !continues(c) && c != '.').unwrap_or(rest.len());
            let word = rest[..end].trim_end_matches('.');
            match self.values.get(word) {
                Some(given) => written.push_str(&given.spelled()),
                None => written.push_str(word),
            }
            rest = &rest[word.len()..];
            // If no name is at the start, as with a single dot, the characters are copied unchanged.
            if word.is_empty() {
                written.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        }
        written + rest
    }
}
