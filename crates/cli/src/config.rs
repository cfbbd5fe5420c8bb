//! Flags before environment before file before defaults.
//!
//! The file's values become the *defaults* of the options of the same name, and clap does the rest: it already puts a
//! flag before the environment and the environment before a default. So a value means the same, and a wrong one gets
//! the same message, wherever it was written.

use std::{
    ffi::{OsStr, OsString},
    io::Read,
    path::{Path, PathBuf},
};

use clap::{Arg, Command, CommandFactory, parser::ValueSource};

use echogen_service::Failure;

use crate::arguments::Arguments;

/// The file that is read if nobody names one.
const DEFAULT_FILE: &str = "echogen.toml";

/// Far more than all options together; keeps a wrong path such as a picture from being read whole.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Returns the command line's definition with the configuration file's values as defaults.
pub(crate) fn command(arguments: &[OsString]) -> Result<Command, Failure> {
    // Every option can stand in the environment; saying so once, below the help, leaves the help readable.
    let command = hide_environment(Arguments::command());
    let named = flag_value(arguments, "--config").or_else(|| std::env::var_os("ECHOGEN_CONFIG"));
    let path = match named {
        Some(path) => PathBuf::from(path),
        None if Path::new(DEFAULT_FILE).is_file() => PathBuf::from(DEFAULT_FILE),
        None => return Ok(command),
    };
    let text = read(&path)?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| syntax_failure(&path, &text, &error))?;
    with_defaults(command, &table).map_err(|message| Failure::usage(format!("{}: {message}", path.display())))
}

fn hide_environment(command: Command) -> Command {
    command.mut_args(|argument| argument.hide_env(true)).mut_subcommands(hide_environment)
}

fn read(path: &Path) -> Result<String, Failure> {
    let fault = |error: std::io::Error| {
        Failure::usage(format!("cannot read the configuration file {}: {error}", path.display()))
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(fault)?;
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(fault)?;
    Ok(text)
}

fn syntax_failure(path: &Path, text: &str, error: &toml::de::Error) -> Failure {
    let start = error.span().map_or(0, |span| span.start);
    let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
    let message = error.message().replace('\n', ", ");
    Failure::usage(format!("{}, line {line}: {message}", path.display()))
}

/// Finds a flag's value before the command line is parsed; clap checks the rest later.
fn flag_value(arguments: &[OsString], flag: &str) -> Option<OsString> {
    let mut arguments = arguments.iter().take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == flag {
            return arguments.next().cloned();
        }
        let value = argument.to_str().and_then(|text| text.strip_prefix(flag)).and_then(|rest| rest.strip_prefix('='));
        if let Some(value) = value {
            return Some(value.into());
        }
    }
    None
}

fn with_defaults(mut command: Command, table: &toml::Table) -> Result<Command, String> {
    let known = option_names(&command);
    for (key, value) in table {
        let name = key.replace('_', "-");
        if !known.contains(&name) {
            return Err(unknown_option(&name, &known));
        }
        let text =
            as_text(value).ok_or_else(|| format!("{key} must be text, a number, true, false or a list of these"))?;
        command = set_default(command, &name, &text);
    }
    Ok(command)
}

fn unknown_option(name: &str, known: &[String]) -> String {
    let nearest = known.iter().min_by_key(|candidate| strsim::damerau_levenshtein(candidate, name));
    let hint = nearest.map(|nearest| format!("; did you mean {nearest:?}?")).unwrap_or_default();
    let shown: String = name.chars().take(60).collect();
    format!("unknown option {shown:?}{hint}")
}

/// All options of all commands that a file may set, by the names of their flags.
fn option_names(command: &Command) -> Vec<String> {
    let mut names: Vec<String> = command.get_subcommands().flat_map(option_names).collect();
    let own = command.get_arguments().filter(|argument| is_setting(argument));
    names.extend(own.filter_map(Arg::get_long).map(str::to_owned));
    names
}

/// An option that can stand in the environment can stand in the file; only the file's own path cannot.
fn is_setting(argument: &Arg) -> bool {
    argument.get_env().is_some() && argument.get_id() != "config"
}

fn set_default(command: Command, name: &str, text: &str) -> Command {
    let command = command.mut_args(|argument| {
        if is_setting(&argument) && argument.get_long() == Some(name) {
            argument.default_value(text.to_owned()).required(false)
        } else {
            argument
        }
    });
    command.mut_subcommands(|subcommand| set_default(subcommand, name, text))
}

fn as_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(values) => values.iter().map(as_text).collect::<Option<Vec<_>>>().map(|all| all.join(",")),
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// Describes every option in force for a command: `name = value`, and who set it.
pub(crate) fn show(command: Command, arguments: &[String]) -> Result<Vec<Setting>, clap::Error> {
    let mut command = without_requirements(command);
    let given = std::iter::once("echogen").chain(arguments.iter().map(String::as_str));
    let matches = command.try_get_matches_from_mut(given)?;
    let Some((name, matches)) = matches.subcommand() else { return Ok(Vec::new()) };
    let Some(definition) = command.find_subcommand(name) else { return Ok(Vec::new()) };
    Ok(definition.get_arguments().filter_map(|argument| Setting::of(argument, matches)).collect())
}

/// To show what is set, nothing needs to be complete.
fn without_requirements(command: Command) -> Command {
    command.mut_args(|argument| argument.required(false)).mut_subcommands(without_requirements)
}

/// One option in force.
#[derive(Debug, PartialEq, serde::Serialize)]
pub(crate) struct Setting {
    /// The option's name, as in the file.
    pub(crate) name: String,
    /// Its value, as it would be written behind the flag.
    pub(crate) value: String,
    /// `flag`, `environment`, or `file or default`.
    pub(crate) source: &'static str,
}

impl Setting {
    fn of(argument: &Arg, matches: &clap::ArgMatches) -> Option<Self> {
        let name = argument.get_long().filter(|_| is_setting(argument))?;
        let id = argument.get_id().as_str();
        let source = match matches.value_source(id)? {
            ValueSource::CommandLine => "flag",
            ValueSource::EnvVariable => "environment",
            _ => "file or default",
        };
        let values = matches.get_raw(id)?.map(OsStr::to_string_lossy).collect::<Vec<_>>();
        Some(Self { name: name.to_owned(), value: values.join(","), source })
    }
}

/// Writes a clap error on one line: what is wrong, and the nearest right thing where clap knows one.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let kept = text.split("\n\n").filter(|part| !part.starts_with("Usage:") && !part.starts_with("For more"));
    let words: Vec<&str> = kept.flat_map(str::split_whitespace).collect();
    format!("{}; see `echogen --help`", words.join(" "))
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;
    use crate::arguments::Command as Chosen;
    use echogen_protocol::PerScale;

    fn table(text: &str) -> toml::Table {
        toml::from_str(text).unwrap()
    }

    #[track_caller]
    fn parse(file: &str, arguments: &[&str]) -> Arguments {
        let command = with_defaults(Arguments::command(), &table(file)).unwrap();
        let matches = command.try_get_matches_from(arguments).unwrap();
        Arguments::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_file_fills_in_what_no_flag_says() {
        let file =
            "prompt = \"from the file\"\nsubject = \"dog.png\"\nseeds = [1, 2]\nguidance_text = [4, 3.5]\njson = true";
        let arguments = parse(file, &["echogen", "generate", "--prompt", "from the flag"]);
        assert!(arguments.general.json);
        let Chosen::Generate(generate) = arguments.command else { panic!("not generate") };
        assert_eq!(generate.prompt, "from the flag");
        assert_eq!(generate.subject, "dog.png");
        assert_eq!(generate.sampling.seeds, [1, 2]);
        assert_eq!(generate.sampling.guidance_text, Some(PerScale::Each(vec![4.0, 3.5])));
    }

    #[test]
    fn a_wrong_name_in_the_file_is_answered_with_the_nearest() {
        let error = with_defaults(Arguments::command(), &table("guidence-text = 3")).unwrap_err();
        assert_eq!(error, "unknown option \"guidence-text\"; did you mean \"guidance-text\"?");
        assert!(with_defaults(Arguments::command(), &table("config = \"x\"")).is_err(), "a file names no other file");
        assert!(with_defaults(Arguments::command(), &table("[prompt]\na = 1")).unwrap_err().contains("must be text"));
    }

    #[test]
    fn a_wrong_value_in_the_file_reads_like_one_in_a_flag() {
        let command = with_defaults(Arguments::command(), &table("top-p = \"high\"")).unwrap();
        let given = ["echogen", "generate", "--subject", "a", "--prompt", "b"];
        let message = one_line(&command.try_get_matches_from(given).unwrap_err());
        assert_eq!(message, "invalid value 'high' for '--top-p <P>': invalid float literal; see `echogen --help`");
    }

    #[test]
    fn missing_and_misspelt_flags_fit_on_one_line() {
        let message = |given: &[&str]| one_line(&Arguments::command().try_get_matches_from(given).unwrap_err());
        assert_eq!(
            message(&["echogen", "generate", "--subject", "a"]),
            "the following required arguments were not provided: --prompt <TEXT>; see `echogen --help`"
        );
        assert_eq!(
            message(&["echogen", "generate", "--promt", "a"]),
            "unexpected argument '--promt' found tip: a similar argument exists: '--prompt'; see `echogen --help`"
        );
    }

    #[test]
    fn the_path_of_the_file_is_found_before_parsing() {
        let find = |given: &[&str]| {
            let given: Vec<OsString> = given.iter().map(OsString::from).collect();
            flag_value(&given, "--config")
        };
        assert_eq!(find(&["generate", "--config", "a.toml"]), Some("a.toml".into()));
        assert_eq!(find(&["--config=b.toml", "batch"]), Some("b.toml".into()));
        assert_eq!(find(&["batch", "--", "--config", "a.toml"]), None);
        assert_eq!(find(&["batch", "--configuration=a"]), None);
    }

    #[test]
    fn show_tells_who_said_what() {
        let command = with_defaults(Arguments::command(), &table("count = 3")).unwrap();
        let given = ["generate", "--top-k", "1"].map(str::to_owned);
        let settings = show(command, &given).unwrap();
        let find = |name: &str| settings.iter().find(|setting| setting.name == name);
        assert_eq!(find("count").unwrap().source, "file or default");
        assert_eq!(find("top-k"), Some(&Setting { name: "top-k".into(), value: "1".into(), source: "flag" }));
        assert_eq!(find("prompt"), None);
    }

    #[test]
    fn the_help_teaches() {
        let help = |name: &str| {
            let mut command = hide_environment(Arguments::command());
            command.build();
            let found = if name.is_empty() { Some(&mut command) } else { command.find_subcommand_mut(name) };
            found.unwrap().clone().term_width(100).render_long_help().to_string()
        };
        for name in ["", "generate", "batch"] {
            insta::assert_snapshot!(format!("help-{name}"), help(name));
        }
    }
}
