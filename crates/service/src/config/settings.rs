//! The list of all settings, walked from the schema of [`ServiceConfig`].

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::{Kind, ServiceConfig};

/// Sections whose settings have flags without the section's name: they mean the same for every command.
const BARE: [&str; 4] = ["model", "finder", "job", "telemetry"];

/// One setting, and its names.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Where it stands: the section, any tables in it, and its name.
    pub path: Vec<String>,
    /// Its documentation: one paragraph.
    pub help: String,
    /// What its value may be.
    pub kind: Kind,
    /// The value that holds if nobody gives one; `None` if there is none.
    pub default: Option<Value>,
    /// Shorter names of its flag, without dashes.
    pub aliases: Vec<String>,
    /// A variable of others that counts if [`Setting::variable`] is not set.
    pub foreign_variable: Option<String>,
    /// A value that shows how it is written.
    pub example: Option<String>,
}

impl Setting {
    /// Its name in pages and errors, and in the file: `broker.url`.
    pub fn name(&self) -> String {
        self.path.join(".")
    }

    /// The section that it stands in.
    pub fn section(&self) -> &str {
        &self.path[0]
    }

    /// Its variable in the environment: `ECHOGEN_BROKER_URL`.
    pub fn variable(&self) -> String {
        format!("ECHOGEN_{}", self.path.join("_").to_ascii_uppercase())
    }

    /// Its flag without the dashes: `broker-url`.
    pub fn flag(&self) -> String {
        let path = if BARE.contains(&self.section()) { &self.path[1..] } else { &self.path[..] };
        path.join("-").replace('_', "-")
    }

    /// Whether its value must not be shown; then it may also be given as the path of a file.
    pub fn is_secret(&self) -> bool {
        self.kind.is_secret()
    }

    /// The first sentence of its documentation.
    pub fn summary(&self) -> &str {
        let end = self.help.find(". ").map_or(self.help.len(), |end| end + 1);
        self.help[..end].trim_end_matches('.')
    }
}

/// One section.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its name, or for a table in a section both names: `worker.concurrency`.
    pub name: String,
    /// Its documentation: one paragraph.
    pub help: String,
}

impl Section {
    /// The section that a table stands in; empty for a section.
    pub(super) fn parent(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(parent, _)| parent)
    }

    /// The name of the table itself.
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

/// The settings of [`ServiceConfig`].
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

    /// Lists what is in a table: first its own settings, then the tables in it, as TOML needs them.
    fn walk_table(&mut self, path: &[String], schema: &Value, defaults: Option<&Value>) {
        let properties = || schema["properties"].as_object().into_iter().flatten();
        let mut own: Vec<_> = properties().filter(|(_, schema)| !is_table(schema)).collect();
        // The address is what a section begins with; all else stands by its name.
        own.sort_by_key(|(name, _)| *name != "url");
        for (name, schema) in own {
            self.all.push(setting([path, std::slice::from_ref(name)].concat(), schema, defaults));
        }
        for (name, schema) in properties().filter(|(_, schema)| is_table(schema)) {
            let path = [path, std::slice::from_ref(name)].concat();
            self.sections.push(Section { name: path.join("."), help: paragraph(schema) });
            // What the outer type says of the inner one counts before what the inner one says.
            let defaults = defaults.and_then(|defaults| defaults.get(name)).or(schema.get("default"));
            self.walk_table(&path, schema, defaults);
        }
    }

    /// The settings that stand in a table itself, and not in a table in it.
    pub(super) fn of_table(&self, table: &str) -> impl Iterator<Item = &Setting> {
        let table: Vec<&str> = table.split('.').filter(|name| !name.is_empty()).collect();
        self.all.iter().filter(move |setting| setting.path[..setting.path.len() - 1] == table[..])
    }

    /// The names of the sections, without those of tables in them.
    pub fn names_of_sections(&self) -> Vec<&str> {
        self.sections.iter().map(|section| section.name.as_str()).filter(|name| !name.contains('.')).collect()
    }

    /// The setting of that name.
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
    // A secret has no default, whatever its type serialises instead of the value.
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

/// The documentation, whose lines end where the source's do.
fn paragraph(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}
