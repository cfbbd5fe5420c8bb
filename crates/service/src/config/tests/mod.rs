//! Tests of every setting in every layer, of the values' origins, and of the errors.

mod flags;
mod layers;
mod names;
mod pages;
mod secrets;
mod values;

use std::{ffi::OsString, path::PathBuf};

use serde_json::Value;

use super::{given::Form, *};

/// Returns the setting of that name.
#[track_caller]
fn setting(name: &str) -> &'static Setting {
    settings().find(name).unwrap_or_else(|| panic!("there is no setting {name}"))
}

/// A file, an environment and flags; the file is in a temporary folder.
#[derive(Default)]
struct Given {
    file: String,
    variables: Vec<(&'static str, String)>,
    flags: Vec<(&'static str, Form, String)>,
}

impl Given {
    fn file(text: &str) -> Self {
        Self { file: text.to_owned(), ..Self::default() }
    }

    fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// Adds the flag of the setting with that name.
    fn flag(mut self, setting: &'static str, value: &str) -> Self {
        self.flags.push((setting, Form::Value, value.to_owned()));
        self
    }

    /// Reads the layers; messages name the file `echogen.toml`.
    fn read(self) -> Result<Loaded, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echogen.toml");
        std::fs::write(&path, &self.file).unwrap();
        let variables = self.variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        let flags = self.flags.into_iter().map(|(name, form, text)| (setting(name), form, OsString::from(text)));
        let layers = Layers { file: Some(path), variables: variables.collect(), flags: flags.collect() };
        let shortened = |error: ConfigError| error.to_string().replace(&format!("{}/", folder.path().display()), "");
        layers.load().map_err(shortened)
    }

    #[track_caller]
    fn config(self) -> ServiceConfig {
        self.read().unwrap().config
    }

    #[track_caller]
    fn error(self) -> String {
        self.read().unwrap_err()
    }
}

/// Returns a valid value that is not the setting's default, as text and in TOML.
fn sample(setting: &Setting) -> (String, String) {
    let quoted = |text: &str| (text.to_owned(), format!("{text:?}"));
    match setting.name().as_str() {
        "broker.url" => return quoted("amqp://localhost:5672/%2f"),
        "cache.url" => return quoted("redis://localhost:6379/0"),
        "store.url" => return quoted("s3://bucket/prefix"),
        "store.endpoint" | "model.hub_endpoint" | "telemetry.otlp_endpoint" | "safety.hook" => {
            return quoted("https://localhost:9000");
        }
        "callbacks.secret" | "safety.secret" => return quoted("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        "job.aspect_ratio" => return quoted("16:9"),
        _ if setting.example.is_some() => return quoted(setting.example.as_deref().unwrap()),
        name if name.ends_with("allowed_networks") || name == "gateway.proxies" => {
            return ("10.0.0.0/8,fd00::/8".to_owned(), "[\"10.0.0.0/8\", \"fd00::/8\"]".to_owned());
        }
        _ => {}
    }
    let value = sample_of(&setting.kind, setting.default.as_ref());
    (plain(&value), setting.kind.written(&value))
}

fn sample_of(kind: &Kind, default: Option<&Value>) -> Value {
    match kind {
        Kind::Boolean => (default != Some(&true.into())).into(),
        Kind::Integer { min, .. } => {
            let min = u64::try_from((*min).max(0)).unwrap();
            if default == Some(&(min + 1).into()) { (min + 2).into() } else { (min + 1).into() }
        }
        Kind::Number(bounds) => {
            let min = bounds.min.unwrap_or_default();
            if default == Some(&(min + 0.5).into()) { min + 0.25 } else { min + 0.5 }.into()
        }
        Kind::Choice(words) => words.iter().find(|word| default != Some(&word.as_str().into())).unwrap().clone().into(),
        Kind::Text { .. } | Kind::Secret => "other".into(),
        Kind::List(item) | Kind::OneOrList(item) => vec![sample_of(item, None), sample_of(item, None)].into(),
    }
}

/// Returns the value as it is written in the environment.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        value => value.to_string(),
    }
}

/// Returns a line of a file that gives one setting.
fn line(setting: &Setting, value: &str) -> String {
    format!("{} = {value}\n", setting.name())
}

fn folder_of_secret(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}
