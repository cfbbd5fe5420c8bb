//! The layer of the flags: command-line arguments that are generated from the list of settings.

use std::ffi::{OsStr, OsString};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use super::{
    Kind, Setting,
    given::Form,
    nearest::{hint, nearest},
    settings::settings,
};

/// Returns the flags of some settings: of whole sections, of single settings by name, and `!` before those to leave
/// out.
///
/// The command-line parser does not validate their values, because its error would quote a wrong value, including a
/// secret.
pub fn flags(uses: &[&str]) -> Vec<Arg> {
    let is_listed = |name: &str, how: &str| uses.iter().any(|used| used.strip_prefix(how) == Some(name));
    let is_used = |setting: &&Setting| {
        let name = setting.name();
        (is_listed(setting.section(), "") || is_listed(&name, "")) && !is_listed(&name, "!")
    };
    settings().all.iter().filter(is_used).flat_map(arguments).collect()
}

fn arguments(setting: &Setting) -> Vec<Arg> {
    let several = if setting.kind.is_list() { ArgAction::Append } else { ArgAction::Set };
    let argument = Arg::new(setting.name())
        .long(setting.flag())
        .visible_aliases(setting.aliases.clone())
        .value_name(value_name(setting))
        .value_parser(clap::value_parser!(OsString))
        .allow_hyphen_values(setting.kind.is_number())
        .action(several)
        .help(format!("{}{}", setting.summary(), note(setting)))
        .long_help(format!("{}{}", setting.help, note(setting)))
        .help_heading(heading(setting.section()));
    if !setting.is_secret() {
        return vec![argument];
    }
    // The help text of the secret itself describes this flag.
    let file = Arg::new(format!("{}_file", setting.name())).long(format!("{}-file", setting.flag())).hide(true);
    vec![argument, file.value_name("FILE").value_parser(clap::value_parser!(OsString))]
}

fn heading(section: &str) -> String {
    let (first, rest) = section.split_at(1);
    format!("{}{rest}", first.to_uppercase())
}

/// Returns the placeholder of the value in the help text.
fn value_name(setting: &Setting) -> String {
    let name = setting.path.last().map(String::as_str).unwrap_or_default();
    match &setting.kind {
        Kind::Boolean => "true|false".to_owned(),
        Kind::Choice(words) if words.iter().map(String::len).sum::<usize>() < 30 => words.join("|"),
        Kind::Integer { .. } | Kind::Number(_) if name.ends_with("_seconds") => "SECONDS".to_owned(),
        Kind::Integer { .. } if name.ends_with("_bytes") => "BYTES".to_owned(),
        Kind::Integer { .. } => "N".to_owned(),
        kind if kind.is_list() && kind.is_number() => "NUMBERS".to_owned(),
        kind if kind.is_number() => "NUMBER".to_owned(),
        _ => name.rsplit('_').next().unwrap_or(name).to_ascii_uppercase(),
    }
}

/// Returns the default, or the other ways in which a secret may be given.
fn note(setting: &Setting) -> String {
    let default = setting.default.as_ref().map(|default| setting.kind.written(default));
    match default.as_deref() {
        _ if setting.is_secret() => format!(" [or --{}-file FILE]", setting.flag()),
        None | Some("[]" | "\"\"") => String::new(),
        Some(default) => format!(" [default: {}]", default.trim_matches('"')),
    }
}

/// Returns the flags that were given, for [`super::Layers::flags`].
pub fn given(matches: &ArgMatches) -> Vec<(&'static Setting, Form, OsString)> {
    let mut found = Vec::new();
    for setting in &settings().all {
        for (form, id) in [(Form::Value, setting.name()), (Form::File, format!("{}_file", setting.name()))] {
            let is_defined = matches.try_contains_id(&id).is_ok_and(|is_present| is_present);
            if is_defined && matches.value_source(&id) == Some(ValueSource::CommandLine) {
                let texts: Vec<&OsStr> = matches.get_raw(&id).into_iter().flatten().collect();
                found.push((setting, form, texts.join(OsStr::new(","))));
            }
        }
    }
    found
}

/// Formats an error of the command-line parser on one line, without secrets: what is wrong, and the most similar valid
/// name.
pub fn one_line(error: &clap::Error, root: &Command, arguments: &[OsString]) -> String {
    let wrong = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(wrong)) => wrong.as_str(),
        _ => return rendered(error, root, arguments),
    };
    let is_unquoted = matches!(error.kind(), ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict);
    if wrong.starts_with("--") && error.kind() == ErrorKind::UnknownArgument {
        unknown_flag(wrong, root, arguments)
    } else if !wrong.starts_with("--") && !is_unquoted && arguments.iter().any(|argument| is_secret_flag(argument)) {
        // The argument may be a part of the secret that was separated by a space.
        "there is a wrong argument without a flag; it is not shown, since a secret is given too".to_owned()
    } else {
        rendered(error, root, arguments)
    }
}

fn unknown_flag(wrong: &str, root: &Command, arguments: &[OsString]) -> String {
    let mut command = root.clone();
    command.build();
    let command = chosen(&command, arguments);
    let name = full_name(command);
    let of_others = settings().all.iter().find(|setting| wrong[2..] == setting.flag());
    let of_file = settings().all.iter().find(|s| s.is_secret() && wrong[2..] == format!("{}-file", s.flag()));
    if let Some(setting) = of_others.or(of_file) {
        return format!("`{name}` does not use {} and has no flag {wrong}; see `{name} --help`", setting.name());
    }
    let known: Vec<String> =
        command.get_arguments().filter_map(Arg::get_long).map(|long| format!("--{long}")).collect();
    let hint = match nearest(wrong, known.iter().map(String::as_str)) {
        Some(nearest) => format!("; did you mean {nearest}?"),
        // A setting with a similar name has no flag in this command, but its name helps to find the right one.
        None => hint(wrong, settings().all.iter().map(Setting::name).collect::<Vec<_>>().iter().map(String::as_str)),
    };
    format!("`{name}` has no flag {wrong}{hint}; see `{name} --help`")
}

/// Returns the name of a command with those of the commands above it.
fn full_name(command: &Command) -> &str {
    command.get_bin_name().unwrap_or(command.get_name())
}

/// Returns the command that the arguments name.
fn chosen<'a>(root: &'a Command, arguments: &[OsString]) -> &'a Command {
    let mut command = root;
    for argument in arguments.iter().skip(1) {
        command = command.find_subcommand(argument).unwrap_or(command);
    }
    command
}

fn is_secret_flag(argument: &OsStr) -> bool {
    let flag = argument.to_string_lossy();
    let flag = flag.split('=').next().unwrap_or_default();
    settings().all.iter().any(|setting| setting.is_secret() && flag.strip_prefix("--") == Some(&setting.flag()))
}

/// Returns the parser's own message without its usage text.
fn rendered(error: &clap::Error, root: &Command, arguments: &[OsString]) -> String {
    let mut command = root.clone();
    command.build();
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let kept = text.split("\n\n").filter(|part| !part.starts_with("Usage:") && !part.starts_with("For more"));
    let words: Vec<&str> = kept.flat_map(str::split_whitespace).collect();
    format!("{}; see `{} --help`", words.join(" "), full_name(chosen(&command, arguments)))
}
