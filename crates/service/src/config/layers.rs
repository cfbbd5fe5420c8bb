//! The layers of the configuration: defaults < file < environment < flags.

use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf};

use serde_json::Map;

use super::{
    ServiceConfig, environment, file,
    given::{Form, Given, Origin, insert},
    settings::{Setting, settings},
};
use crate::credentials::hide_credentials;

/// What is printed in place of a secret.
const SET: &str = "(set)";

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
            let written = |value| hide_credentials(&setting.kind.written(value));
            let shown = |value| if setting.is_secret() { SET.to_owned() } else { written(value) };
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
