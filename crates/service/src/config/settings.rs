//! The list of all settings, derived from the schema of [`ServiceConfig`].

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::{Kind, ServiceConfig};

/// Sections whose settings have flags without the section's name, because they mean the same for every command.
const BARE: [&str; 4] = ["model", "finder", "job", "telemetry"];

/// One setting, and its names.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its path: the section, the tables within it, and its name.
    pub path: Vec<String>,
    /// Its documentation: one paragraph.
    pub help: String,
    /// The kind of its value.
    pub kind: Kind,
    /// The default value, if it has one.
    pub default: Option<Value>,
    /// Shorter names of its flag, without dashes.
    pub aliases: Vec<String>,
    /// A variable of other programs that is read if [`Setting::variable`] is not set.
    pub foreign_variable: Option<String>,
    /// A value that shows the syntax.
    pub example: Option<String>,
}

impl Setting {
    /// Returns its name in pages, errors and the file: `broker.url`.
    pub fn name(&self) -> String {
        self.path.join(".")
    }

    /// Returns the section that contains it.
    pub fn section(&self) -> &str {
        &self.path[0]
    }

    /// Returns its environment variable: `ECHOGEN_BROKER_URL`.
    pub fn variable(&self) -> String {
        format!("ECHOGEN_{}", self.path.join("_").to_ascii_uppercase())
    }

    /// Returns its flag without the dashes: `broker-url`.
    pub fn flag(&self) -> String {
        let path = if BARE.contains(&self.section()) { &self.path[1..] } else { &self.path[..] };
        path.join("-").replace('_', "-")
    }

    /// Returns whether its value must not be printed. Such a setting may also be given as the path of a file.
    pub fn is_secret(&self) -> bool {
        self.kind.is_secret()
    }

    /// Returns the first sentence of its documentation.
    pub fn summary(&self) -> &str {
        let end = self.help.find(". ").map_or(self.help.len(), |end| end + 1);
        self.help[..end].trim_end_matches('.')
    }
}

/// One section.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its name; for a table in a section both names: `worker.concurrency`.
    pub name: String,
    /// Its documentation: one paragraph.
    pub help: String,
}

impl Section {
    /// Returns the section that contains a table; empty for a section.
    pub(super) fn parent(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(parent, _)| parent)
    }

    /// Returns the name of the table itself.
    pub(super) fn own_name(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(_, own)| own)
    }
}

/// All settings and their sections.
#[derive(Debug)]
pub struct Settings {
    /// The sections, and the tables in them.
    pub sections: Vec<Section>,
    /// The settings, section by section.
    pub all: Vec<Setting>,
}

/// Returns the settings of [`ServiceConfig`].
pub fn settings() -> &'static Settings {
    static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
        let schema = settings.into_generator().into_root_schema_for::<ServiceConfig>();
        Settings::walk(schema.as_value())
    });
    &SETTINGS
}

impl Settings {
    fn walk(schema: &Value) -> Self {
        let mut settings = Self { sections: Vec::new(), all: Vec::new() };
        settings.walk_table(&[], schema, None);
        settings
    }

    /// Lists a table: first its own settings, then the tables in it, as TOML requires.
    fn walk_table(&mut self, path: &[String], schema: &Value, defaults: Option<&Value>) {
        let properties = || schema["properties"].as_object().into_iter().flatten();
        let mut own: Vec<_> = properties().filter(|(_, schema)| !is_table(schema)).collect();
        // A section begins with the address; all other settings are sorted by name.
        own.sort_by_key(|(name, _)| *name != "url");
        for (name, schema) in own {
            self.all.push(setting([path, std::slice::from_ref(name)].concat(), schema, defaults));
        }
        for (name, schema) in properties().filter(|(_, schema)| is_table(schema)) {
            let path = [path, std::slice::from_ref(name)].concat();
            self.sections.push(Section { name: path.join("."), help: paragraph(schema) });
            // The outer type's default takes precedence over the inner type's.
            let defaults = defaults.and_then(|defaults| defaults.get(name)).or(schema.get("default"));
            self.walk_table(&path, schema, defaults);
        }
    }

    /// Returns the settings of a table itself, without those of tables within it.
    pub(super) fn of_table(&self, table: &str) -> impl Iterator<Item = &Setting> {
        let table: Vec<&str> = table.split('.').filter(|name| !name.is_empty()).collect();
        self.all.iter().filter(move |setting| setting.path[..setting.path.len() - 1] == table[..])
    }

    /// Returns the names of the sections, without tables within them.
    pub fn names_of_sections(&self) -> Vec<&str> {
        self.sections.iter().map(|section| section.name.as_str()).filter(|name| !name.contains('.')).collect()
    }

    /// Returns the setting of that name.
    pub fn find(&self, name: &str) -> Option<&Setting> {
        self.all.iter().find(|setting| setting.name() == name)
    }
}

fn is_table(schema: &Value) -> bool {
    schema.get("properties").is_some()
}

fn setting(path: Vec<String>, schema: &Value, defaults: Option<&Value>) -> Setting {
    let name = path.last().map(String::as_str).unwrap_or_default();
    let kind = Kind::of(name, schema);
    let default = defaults.and_then(|defaults| defaults.get(name)).or(schema.get("default"));
    // A secret has no default, whatever its type serialises in place of the value.
    let default = default.filter(|default| !default.is_null() && !kind.is_secret()).cloned();
    let text = |key: &str| schema[key].as_str().map(str::to_owned);
    Setting {
        help: paragraph(schema),
        default,
        aliases: text("x-alias").into_iter().collect(),
        foreign_variable: text("x-variable"),
        example: schema["examples"][0].as_str().map(str::to_owned),
        kind,
        path,
    }
}

/// Returns the documentation as one paragraph, without the line breaks of the source.
fn paragraph(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}
