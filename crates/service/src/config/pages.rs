//! The files that are generated from the list of settings: the default file, its JSON Schema, and the documentation
//! page.

use serde_json::{Map, Value, json};

use super::{
    Kind,
    settings::{Setting, Settings, settings},
};

/// Line width of a comment in the default file.
const WIDTH: usize = 100;

/// Returns a file with every setting, commented out, at its default.
pub fn default_file() -> String {
    let mut text = String::from(
        "# All settings of EchoGen, at their defaults. A line counts once its `#` is removed. The environment counts before\n\
         # this file, and a flag before both. Printed by `echogen config default`.\n",
    );
    for section in &settings().sections {
        let own = settings().of_table(&section.name);
        text.push_str(&format!("\n{}\n[{}]\n", comment(&section.help), section.name));
        for setting in own {
            text.push_str(&format!("\n{}\n# {}\n", comment(&setting.help), assignment(setting)));
        }
    }
    text
}

/// Returns `name = default`, or `name = ""` for a setting without a default, where the empty text means that it is
/// absent.
fn assignment(setting: &Setting) -> String {
    let name = setting.path.last().map(String::as_str).unwrap_or_default();
    let default = setting.default.as_ref().map(|default| setting.kind.written(default));
    let value = default.unwrap_or_else(|| "\"\"".to_owned());
    if setting.is_secret() { format!("{name} = {value}  # or {name}_file") } else { format!("{name} = {value}") }
}

/// Formats a paragraph as lines that begin with `#`.
fn comment(paragraph: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in paragraph.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("# {word}"));
        } else {
            *line = format!("{line} {word}");
        }
    }
    lines.join("\n")
}

/// Returns the JSON Schema of the file, for editors and for the Helm chart.
pub fn schema() -> Value {
    let mut root = table_schema(settings(), "");
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["title"] = "echogen.toml".into();
    root["description"] = "The configuration file of EchoGen.".into();
    root
}

fn table_schema(settings: &Settings, table: &str) -> Value {
    let mut properties = Map::new();
    for setting in settings.of_table(table) {
        let name = setting.path.last().cloned().unwrap_or_default();
        if setting.is_secret() {
            let help = format!("Path of a file that contains `{}`.", setting.name());
            properties.insert(format!("{name}_file"), json!({ "type": "string", "description": help }));
        }
        properties.insert(name, setting_schema(setting));
    }
    for section in settings.sections.iter().filter(|section| section.parent() == table) {
        let mut schema = table_schema(settings, &section.name);
        schema["description"] = section.help.clone().into();
        properties.insert(section.own_name().to_owned(), schema);
    }
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn setting_schema(setting: &Setting) -> Value {
    let mut schema = setting.kind.schema();
    schema["description"] = setting.help.clone().into();
    if let Some(default) = &setting.default {
        schema["default"] = default.clone();
    }
    schema
}

/// Returns the documentation page.
pub fn page() -> String {
    let mut text = String::from(PAGE_BEGINNING);
    for section in &settings().sections {
        let own: Vec<_> = settings().of_table(&section.name).collect();
        if own.is_empty() && section.name.contains('.') {
            continue;
        }
        text.push_str(&format!("\n## {}\n\n{}\n", section.name, section.help));
        if own.is_empty() {
            continue;
        }
        text.push_str("\n| setting | variable, flag | default | meaning |\n|---|---|---|---|\n");
        own.iter().for_each(|setting| text.push_str(&row(setting)));
    }
    text
}

const PAGE_BEGINNING: &str = "\
# Configuration

<!-- Generated from the types in crates/service/src/config: a test compares this page with them. -->

Every setting can be given in three ways. A flag counts before the environment, the environment before the file, and the
file before the default. The file is `echogen.toml` in the working directory, or the one that `--config FILE` or
`ECHOGEN_CONFIG` names.

| | in general | for example |
|---|---|---|
| file | `name = value` below `[section]` | `[worker]`, `grace_seconds = 60` |
| environment | `ECHOGEN_SECTION_NAME` | `ECHOGEN_WORKER_GRACE_SECONDS=60` |
| flag | `--section-name` | `--worker-grace-seconds 60` |

- The flags of the sections `model`, `finder`, `job` and `telemetry` have no section in their name: `--device`. A command
  has the flags of the sections that it uses; `echogen COMMAND --help` lists them.
- A variable that is empty counts as not given, and so does an empty text in the file. A flag with an empty text sets the
  setting back to its default.
- Lists are written `a,b` in the environment and in flags, and `[\"a\", \"b\"]` in the file.
- Secrets are never printed. Each may also be given as the path of a file that contains it, such as a mounted secret:
  `ECHOGEN_BROKER_URL_FILE`, `--broker-url-file`, or `url_file` in the file. White space around it is removed.
- An unknown name in the file is an error. An unknown variable that begins with `ECHOGEN_` is a warning.

```console
echogen config show        # every setting, its value, and which layer it comes from
echogen config check       # is the configuration valid?
echogen config default     # a file with every setting at its default
echogen schema config      # a JSON Schema of the file, for editors
```
";

fn row(setting: &Setting) -> String {
    let mut names = vec![setting.variable(), format!("--{}", setting.flag())];
    names.extend(setting.foreign_variable.clone());
    names.extend(setting.aliases.iter().map(|alias| format!("--{alias}")));
    if setting.is_secret() {
        names.extend([format!("{}_FILE", setting.variable()), format!("--{}-file", setting.flag())]);
    }
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let default = setting.default.as_ref().map_or_else(String::new, |default| {
        let written = setting.kind.written(default);
        format!("`{written}`")
    });
    let escaped = |text: &str| text.replace('|', "\\|");
    let help = match &setting.kind {
        Kind::Choice(_) => format!("{} One of {}.", setting.help, setting.kind.expected()),
        _ => setting.help.clone(),
    };
    let help = escaped(&help);
    format!("| `{}` | {} | {} | {help} |\n", setting.name(), names.join("<br>"), escaped(&default))
}
