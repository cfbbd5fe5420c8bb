//! The layer of the environment variables.

use std::ffi::OsString;

use super::{
    given::{Form, Given, Origin},
    nearest::hint,
    settings::{Setting, settings},
};

/// The prefix of all our variables.
const PREFIX: &str = "ECHOGEN_";

/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "ECHOGEN_CONFIG";

/// The prefix of variables that only tests read.
const TEST_PREFIX: &str = "ECHOGEN_TEST_";

/// Returns the settings among the variables, and a warning for each variable with our prefix that is no setting.
pub(super) fn read(variables: &[(OsString, OsString)]) -> (Result<Vec<Given>, Vec<String>>, Vec<String>) {
    let (mut given, mut errors, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    for (name, value) in variables {
        let (Some(name), false) = (name.to_str(), value.is_empty()) else { continue };
        let Some((setting, form)) = setting_of(name) else {
            warnings.extend(unknown(name));
            continue;
        };
        // Our own variable takes precedence over the foreign one.
        let is_foreign = setting.foreign_variable.as_deref() == Some(name);
        if is_foreign && variables.iter().any(|(name, value)| *name == *setting.variable() && !value.is_empty()) {
            continue;
        }
        let origin = Origin::Environment { variable: name.to_owned() };
        match value.to_str().map(str::trim) {
            Some("") => {}
            Some(text) => match Given::from_text(setting, form, text, origin) {
                Ok(value) => given.push(value),
                Err(error) => errors.push(error),
            },
            None => errors.push(format!("{name} is not UTF-8")),
        }
    }
    (if errors.is_empty() { Ok(given) } else { Err(errors) }, warnings)
}

fn setting_of(name: &str) -> Option<(&'static Setting, Form)> {
    settings().all.iter().find_map(|setting| {
        let variable = setting.variable();
        if name == variable || setting.foreign_variable.as_deref() == Some(name) {
            return Some((setting, Form::Value));
        }
        let is_file = setting.is_secret() && name.strip_suffix("_FILE") == Some(&variable);
        is_file.then_some((setting, Form::File))
    })
}

fn unknown(name: &str) -> Option<String> {
    if !name.starts_with(PREFIX) || name.starts_with(TEST_PREFIX) || name == CONFIG_VARIABLE {
        return None;
    }
    let known = settings().all.iter().map(Setting::variable).collect::<Vec<_>>();
    Some(format!("the variable {name} is no setting{}", hint(name, known.iter().map(String::as_str))))
}
