//! Tests that the documentation names only settings and flags that exist.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::Command;
use echogen_service::config::{CONFIG_VARIABLE, Setting, settings};

use crate::program::repository;

/// Pages, and folders of pages, relative to the root of the repository.
const PAGES: [&str; 9] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs",
    "deploy",
    "helm",
    "examples",
    "training",
];

/// Extensions of files that people read or that start the program.
const ENDINGS: [&str; 8] = ["md", "yaml", "tpl", "txt", "toml", "sh", "example", "py"];

/// Variables with our prefix that the program does not read: images for Compose, variables of training and tests, and of the
/// stand-in for a GPU's driver.
const OTHER_VARIABLES: [&str; 16] = [
    "ECHOGEN_IMAGE",
    "ECHOGEN_CUDA_IMAGE",
    "ECHOGEN_TRAIN",
    "ECHOGEN_TEST_UPDATE",
    "ECHOGEN_TEST_RABBITMQ_SERVER",
    "ECHOGEN_TEST_RABBITMQ_CONF",
    "ECHOGEN_TEST_REDIS_SERVER",
    "ECHOGEN_TEST_S3_ENDPOINT",
    "ECHOGEN_TEST_S3_REGION",
    "ECHOGEN_TEST_S3_ACCESS_KEY_ID",
    "ECHOGEN_TEST_S3_SECRET_ACCESS_KEY",
    "ECHOGEN_DRIVER_COUNTS",
    "ECHOGEN_DRIVER_KERNELS",
    "ECHOGEN_DRIVER_MEMORY_BYTES",
    "ECHOGEN_SECTION_NAME",
    "ECHOGEN_OLD",
];

/// Flags of other programs that the pages name without a command; two of them are of `echogen-eval`.
const OTHER_FLAGS: [&str; 5] = ["--features", "--locked", "--scale", "--per-prompt", "--subjects"];

/// The setting in the example of CONTRIBUTING that shows how a setting is added.
const NEW_SETTING: &str = "sampler.max_batch_seconds";

/// File extensions, to recognise file names that look like settings: `model.safetensors`.
const FILE_ENDINGS: [&str; 7] = ["rs", "toml", "json", "yaml", "safetensors", "md", "py"];

/// Returns every page's path and text.
fn pages() -> Vec<(String, String)> {
    let root = repository("");
    let mut files = Vec::new();
    PAGES.iter().for_each(|page| collect(&root.join(page), &mut files));
    assert!(files.len() > 30, "{files:?}");
    let text = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path.strip_prefix(&root).expect("it is below the root").display().to_string(), text)
    };
    files.into_iter().map(text).collect()
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_page = ENDINGS.iter().any(|ending| name.ends_with(&format!(".{ending}"))) || name == "healthcheck";
    // Tests of the deployment give wrong names on purpose.
    if name.starts_with("test_") {
        return;
    }
    if path.is_dir() && !["node_modules", "target"].contains(&name.as_str()) {
        std::fs::read_dir(path)
            .expect("a folder can be read")
            .for_each(|entry| collect(&entry.expect("an entry can be read").path(), files));
    } else if path.is_file() && is_page {
        files.push(path.to_owned());
    }
}

/// Returns the words of a text that begin with `start` and consist only of characters that `belongs` accepts.
fn words<'a>(text: &'a str, start: &'a str, belongs: impl Fn(char) -> bool + 'a) -> impl Iterator<Item = &'a str> + 'a {
    text.match_indices(start).filter_map(move |(at, _)| {
        let is_new = !text[..at].ends_with(|c: char| belongs(c) || c.is_ascii_alphanumeric());
        let word = text[at..].split(|c| !belongs(c)).next().unwrap_or_default();
        is_new.then_some(word)
    })
}

fn variables() -> BTreeSet<String> {
    let mut known: BTreeSet<String> = OTHER_VARIABLES.iter().map(|name| (*name).to_owned()).collect();
    known.insert(CONFIG_VARIABLE.to_owned());
    for setting in &settings().all {
        known.extend(setting.is_secret().then(|| format!("{}_FILE", setting.variable())));
        known.insert(setting.variable());
    }
    known
}

/// Adds the flags of a command and of its subcommands.
fn flags(command: &Command, known: &mut BTreeSet<String>) {
    for argument in command.get_arguments() {
        let aliases = argument.get_visible_aliases().unwrap_or_default();
        known.extend(argument.get_long().into_iter().chain(aliases).map(|name| format!("--{name}")));
    }
    command.get_subcommands().for_each(|command| flags(command, known));
}

/// Returns the texts between backquotes.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with("```")).flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Returns the calls of a program, or of a command of it, in lines and in code spans. A backslash at the end of a line
/// continues it.
fn calls(text: &str, program: &Command) -> Vec<String> {
    let (joined, name) = (text.replace("\\\n", " "), format!("{} ", program.get_name()));
    let starts = joined.match_indices(&name).filter(|(at, _)| !joined[..*at].ends_with(['-', '/', '_', '.']));
    let end = |c: char| matches!(c, '\n' | '`' | '|' | ';' | '#' | '&' | '<' | '>' | '"');
    let calls = starts.filter_map(|(at, _)| joined[at..].split(end).next());
    // `cargo run -p PROGRAM -- FLAGS`, too.
    let of_program = calls.map(|call| call.replace(" -- ", " "));
    let is_command = |word: &str| program.find_subcommand(word).is_some();
    let is_call = |call: &String| !program.has_subcommands() || call.split_whitespace().nth(1).is_some_and(is_command);
    of_program.filter(is_call).collect()
}

/// Adds the flags in the help examples of a command and of its subcommands.
fn examples(command: &Command, found: &mut Vec<(String, String)>) {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let is_flag = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let page = || format!("the help of {}", command.get_name());
    found.extend(words(&help, "--", is_flag).map(|flag| (page(), flag.to_owned())));
    command.get_subcommands().for_each(|command| examples(command, found));
}

fn check(what: &str, known: &BTreeSet<String>, found: impl IntoIterator<Item = (String, String)>) {
    let is_unknown = |(_, name): &(String, String)| !known.contains(name.trim_end_matches('_')) && !name.ends_with('_');
    let unknown: BTreeSet<String> =
        found.into_iter().filter(is_unknown).map(|(page, name)| format!("{page}: {name}")).collect();
    assert!(unknown.is_empty(), "{what} that do not exist:\n{}", unknown.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn every_variable_on_a_page_exists() {
    let is_variable = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let pages = pages();
    let found = pages
        .iter()
        .flat_map(|(page, text)| words(text, "ECHOGEN_", is_variable).map(|name| (page.clone(), name.to_owned())));
    check("variables", &variables(), found);
}

#[test]
fn every_flag_on_a_page_exists() {
    let mut known = BTreeSet::from(["--help".to_owned(), "--version".to_owned(), "--section-name".to_owned()]);
    known.extend(OTHER_FLAGS.map(str::to_owned));
    let mut programs = [echogen_cli::command(), echogen_eval::command()];
    for program in &mut programs {
        program.build();
        flags(program, &mut known);
    }
    let is_flag = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let pages = pages();
    let mut found = Vec::new();
    for (page, text) in &pages {
        for call in programs.iter().flat_map(|program| calls(text, program)) {
            found.extend(
                words(&call, "--", is_flag).filter(|flag| flag.len() > 2).map(|f| (page.clone(), f.to_owned())),
            );
        }
        // A flag alone in a sentence is checked in pages for users only; pages about the code also name flags of other
        // programs.
        if page.starts_with("docs/") || page == "README.md" {
            let alone = code_spans(text).filter(|span| span.starts_with("--"));
            found.extend(alone.flat_map(|span| words(span, "--", is_flag)).map(|flag| (page.clone(), flag.to_owned())));
        }
    }
    programs.iter().for_each(|program| examples(program, &mut found));
    assert!(found.len() > 100, "{found:?}");
    check("flags", &known, found);
}

/// The values of the chart, some of which begin like a section of the configuration.
fn chart_values() -> BTreeSet<String> {
    fn collect(schema: &serde_json::Value, path: &str, found: &mut BTreeSet<String>) {
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            collect(schema, &path, found);
            // Kubernetes' own, which the schema does not spell out.
            found.extend(
                ["requests", "limits"].map(|of| format!("{path}.{of}")).into_iter().filter(|_| name == "resources"),
            );
            found.insert(path);
        }
    }
    let text = std::fs::read_to_string(repository("helm/echogen/values.schema.json")).expect("the chart has a schema");
    let mut found = BTreeSet::new();
    collect(&serde_json::from_str(&text).expect("it is JSON"), "", &mut found);
    found
}

#[test]
fn every_setting_on_a_page_exists() {
    let mut known: BTreeSet<String> = settings().all.iter().map(Setting::name).collect();
    known.extend(settings().sections.iter().map(|section| section.name.clone()));
    let of_files = settings().all.iter().filter(|setting| setting.is_secret());
    known.extend(of_files.map(|setting| format!("{}_file", setting.name())));
    known.extend(["section.name".to_owned(), NEW_SETTING.to_owned()]);
    known.extend(chart_values());
    let sections = settings().names_of_sections();
    let is_setting = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
    let pages = pages();
    let found = pages.iter().filter(|(page, _)| page.ends_with(".md")).flat_map(|(page, text)| {
        let names = code_spans(text).filter_map(|span| span.split([' ', '=']).next());
        let names = names.filter(|name| {
            let (section, rest) = name.split_once('.').unwrap_or((name, ""));
            sections.contains(&section) && !rest.is_empty() && name.chars().all(is_setting)
        });
        let names = names.filter(|name| !FILE_ENDINGS.iter().any(|ending| name.ends_with(&format!(".{ending}"))));
        names.map(|name| (page.clone(), name.to_owned()))
    });
    check("settings", &known, found);
}

#[test]
fn every_setting_is_documented_on_a_page() {
    let pages = pages();
    for setting in &settings().all {
        for name in [setting.name(), setting.variable(), format!("--{}", setting.flag())] {
            let span = format!("`{name}`");
            let is_documented = pages.iter().any(|(page, text)| page.ends_with(".md") && text.contains(&span));
            assert!(is_documented, "no page documents {name}");
        }
    }
}
