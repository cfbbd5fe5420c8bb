//! The pages of the reference that are made of the code: commands, fields of jobs and results, requests of the HTTP API.
//! `docs/configuration.md` and `docs/metrics.md` are made by the tests of their crates.

use std::fmt::Write;

use clap::{Arg, Command};
use echogen_protocol::Job;
use echogen_service::config::settings;
use serde_json::Value;

use crate::program::{Folder, repository};

/// If this variable is set, the committed pages are rewritten.
const UPDATE_VARIABLE: &str = "ECHOGEN_TEST_UPDATE";

#[track_caller]
fn is_committed(name: &str, expected: &str) {
    let path = repository("docs/reference").join(name);
    if std::env::var_os(UPDATE_VARIABLE).is_some() {
        std::fs::create_dir_all(repository("docs/reference")).expect("the folder can be made");
        std::fs::write(&path, expected).expect("the page can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == expected, "{} is out of date; run this test with {UPDATE_VARIABLE}=1", path.display());
}

/// A cell of a table.
fn cell(text: &str) -> String {
    // Links of the code's own documentation lead nowhere on a page.
    let text = text.replace("[`", "`").replace("`]", "`");
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[test]
fn the_page_of_commands_is_that_of_the_program() {
    let mut page = String::from(
        "# Commands\n\nGenerated from the program. Flags of settings, which most commands take too, are in \
         [configuration](../configuration.md); `echogen help COMMAND` prints both.\n",
    );
    let mut command = echogen_cli::command();
    command.build();
    write_commands(&command, &mut page);
    is_committed("commands.md", &page);
}

fn write_commands(command: &Command, page: &mut String) {
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        if command.has_subcommands() {
            write_commands(command, page);
            continue;
        }
        let name = command.get_bin_name().unwrap_or(command.get_name());
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        write!(page, "\n## {name}\n\n{about}.\n").expect("text can be written");
        let own: Vec<&Arg> = command.get_arguments().filter(|argument| is_own(argument)).collect();
        if !own.is_empty() {
            page.push_str("\n| argument | | default |\n|---|---|---|\n");
        }
        own.into_iter().for_each(|argument| page.push_str(&row(argument)));
        if let Some(examples) = command.get_after_help() {
            write!(page, "\n```text\n{}\n```\n", examples.to_string().trim_end()).expect("text can be written");
        }
    }
}

/// Whether an argument is the command's alone: neither a setting nor common to all commands.
fn is_own(argument: &Arg) -> bool {
    let id = argument.get_id().as_str();
    !argument.is_global_set()
        && id != "help"
        && id != "version"
        && !settings().all.iter().any(|other| other.name() == id)
}

fn row(argument: &Arg) -> String {
    let takes_value = argument.get_action().takes_values();
    let value = argument.get_value_names().unwrap_or_default().first().filter(|_| takes_value);
    let value = value.map(ToString::to_string).unwrap_or_default();
    let name = match argument.get_long() {
        Some(long) if value.is_empty() => format!("--{long}"),
        Some(long) => format!("--{long} {value}"),
        None => value,
    };
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let default = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>();
    let default = if default.is_empty() || !takes_value { String::new() } else { format!("`{}`", default.join(",")) };
    format!("| `{name}` | {} | {default} |\n", cell(&help))
}

#[test]
fn the_page_of_jobs_and_results_is_that_of_the_types() {
    let mut page = String::from(
        "# Fields of jobs and results\n\nGenerated from the schemas that `echogen schema job` and `echogen schema result` print. \
         [protocol.md](../protocol.md) explains them.\n",
    );
    let result = schema_of_results();
    for (name, schema) in [("Job", Job::schema()), ("Result", &result)] {
        write!(page, "\n## {name}\n\n| field | type | |\n|---|---|---|\n").expect("text can be written");
        write_fields(schema, schema, "", 0, &mut page);
    }
    is_committed("fields.md", &page);
}

/// The schema as the program prints it.
fn schema_of_results() -> Value {
    let run = Folder::new().run(&["schema", "result"]).expect(0);
    serde_json::from_str(&run.stdout).expect("a schema")
}

/// Follows a reference within the document.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let options = ["anyOf", "oneOf", "allOf"].iter().filter_map(|of| schema[of].as_array()).flatten();
    let one = options.into_iter().find(|option| option["type"] != "null" && !option["$ref"].is_null());
    let schema = one.unwrap_or(schema);
    let target = schema["$ref"].as_str().and_then(|path| root.pointer(path.strip_prefix('#')?));
    target.unwrap_or(schema)
}

fn type_of(root: &Value, schema: &Value) -> String {
    let schema = if schema["$ref"].is_null() && schema["anyOf"].is_null() { schema } else { resolved(root, schema) };
    let names = schema["enum"].as_array().map(|names| names.iter().filter_map(Value::as_str).collect::<Vec<_>>());
    let constants = schema["oneOf"].as_array().map(|all| all.iter().filter_map(|one| one["const"].as_str()).collect());
    if let Some(names) = names.or(constants).filter(|names: &Vec<&str>| !names.is_empty()) {
        return names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    }
    let of = |name: &Value| name.as_str().map(str::to_owned);
    match &schema["type"] {
        Value::Array(types) => {
            types.iter().filter_map(of).filter(|name| name != "null").collect::<Vec<_>>().join(" or ")
        }
        Value::String(name) if name == "array" => format!("list of {}", type_of(root, &schema["items"])),
        Value::String(name) => name.clone(),
        _ => "see the schema".to_owned(),
    }
}

fn write_fields(root: &Value, schema: &Value, path: &str, depth: usize, page: &mut String) {
    let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let target = resolved(root, field);
        let about = [&field["description"], &target["description"]].into_iter().find_map(Value::as_str).unwrap_or("");
        let first = about.split("\n\n").next().unwrap_or_default();
        let must = if required.iter().any(|other| other == name) { " **Required.**" } else { "" };
        writeln!(page, "| `{path}` | {} | {}{must} |", cell(&type_of(root, field)), cell(first)).expect("text");
        if depth < 2 {
            let inner = if target["type"] == "array" { resolved(root, &target["items"]) } else { target };
            let path = if target["type"] == "array" { format!("{path}[]") } else { path };
            write_fields(root, inner, &path, depth + 1, page);
        }
    }
}

#[test]
fn the_page_of_requests_is_that_of_the_gateway() {
    let document = echogen_gateway::openapi();
    let mut page = String::from(
        "# Requests of the HTTP API\n\nGenerated from the OpenAPI document, which every gateway serves at `/v1/openapi.json`. \
         [http.md](../http.md) explains them.\n",
    );
    for (path, methods) in document["paths"].as_object().expect("there are paths") {
        for (method, operation) in methods.as_object().expect("there are methods") {
            let about = operation["summary"].as_str().unwrap_or_default();
            let end = if about.ends_with('.') { "" } else { "." };
            write!(page, "\n## {} {path}\n\n{about}{end}\n", method.to_uppercase()).expect("text can be written");
            write_request(operation, &mut page);
        }
    }
    is_committed("api.md", &page);
}

fn write_request(operation: &Value, page: &mut String) {
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !parameters.is_empty() {
        page.push_str("\n| parameter | in | |\n|---|---|---|\n");
    }
    for parameter in parameters {
        let text = |name: &str| parameter[name].as_str().unwrap_or_default().to_owned();
        let about = parameter["description"].as_str().or(parameter["schema"]["description"].as_str()).unwrap_or("");
        writeln!(page, "| `{}` | {} | {} |", text("name"), text("in"), cell(about)).expect("text can be written");
    }
    page.push_str("\n| status | |\n|---|---|\n");
    for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
        let document = echogen_gateway::openapi();
        let target = resolved(document, answer);
        let about = target["description"].as_str().unwrap_or_default();
        writeln!(page, "| {status} | {} |", cell(about)).expect("text can be written");
    }
}
