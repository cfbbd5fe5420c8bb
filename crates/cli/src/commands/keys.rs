//! `echogen keys`: makes keys of the HTTP API, lists them and revokes them, and derives tenants' secrets of callbacks. Whole
//! keys are printed once and kept nowhere.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use echogen_ports::{Fault, FaultKind, Secret, callback_secrets_of};
use echogen_service::{
    Exit, Failure,
    console::{print_error, print_json, print_line},
};
use echogen_tenants::{Key, KeyEntry, KeyId, Scope, TenantName, TenantsFile, edit};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

pub(crate) const KEYS_EXAMPLES: &str = "\
Examples:
  A key for a tenant, whose entry is added to the file; the key itself is printed, once:
    echogen keys new --tenant acme --file tenants.toml
  One that ends after 90 days and may also use the routes below /admin:
    echogen keys new --tenant acme --scope jobs --scope admin --expires 90 --file tenants.toml
  Without a file: the key on standard output, the entry on standard error:
    echogen keys new --tenant acme > key.txt 2> entry.toml
  Which keys are there, and until when?
    echogen keys list --file tenants.toml
  The secret that a tenant verifies callbacks with, from callbacks.secret:
    ECHOGEN_CALLBACKS_SECRET_FILE=callbacks.secret echogen keys callback-secret --tenant acme
  Take a key back; gateways notice within seconds:
    echogen keys revoke Ab3dE6gH --file tenants.toml

The file keeps the SHA-256 of a key, so a lost key cannot be shown again: make another one.";

/// `echogen keys`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key and print it, once
    #[command(after_help = KEYS_EXAMPLES)]
    New(NewArguments),
    /// List keys with tenant, scopes and expiry
    #[command(after_help = KEYS_EXAMPLES)]
    List(ListArguments),
    /// Remove keys; their sessions end too
    #[command(after_help = KEYS_EXAMPLES)]
    Revoke(RevokeArguments),
    /// Print the secret that a tenant verifies its callbacks with
    #[command(after_help = KEYS_EXAMPLES)]
    CallbackSecret(CallbackSecretArguments),
}

/// `echogen keys new`.
#[derive(Args, Clone, Debug)]
pub(crate) struct NewArguments {
    /// Whose key it is: lower-case letters, digits and `-`
    #[arg(long, value_name = "TENANT")]
    tenant: TenantName,

    /// What the key may be used for: `jobs` or `admin`; can be repeated
    #[arg(long = "scope", value_name = "SCOPE", default_value = "jobs")]
    scopes: Vec<Scope>,

    /// Days until the key ends; by default it does not
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    expires: Option<u32>,

    /// File to add the entry to; one that does not exist is created for its owner only. By default the entry is printed
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// `echogen keys list`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ListArguments {
    /// File with the tenants
    #[arg(long, value_name = "FILE")]
    file: PathBuf,

    /// Only keys of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<TenantName>,
}

/// `echogen keys revoke`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RevokeArguments {
    /// The keys' ids: the 8 characters behind `eg_`
    #[arg(value_name = "ID", required = true)]
    // Read later: an error of the command line would quote a whole key that is given by mistake.
    ids: Vec<String>,

    /// File with the tenants
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

/// `echogen keys callback-secret`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CallbackSecretArguments {
    /// Whose secret
    #[arg(long, value_name = "TENANT")]
    tenant: TenantName,
}

/// Runs `echogen keys`. Only what needs the setting `callbacks.secret` reads it: the rest works without a configuration.
pub(crate) fn run(
    command: &KeysCommand,
    callbacks_secret: impl FnOnce() -> Result<Option<Secret>, Failure>,
    as_json: bool,
) -> Result<Exit, Failure> {
    match command {
        KeysCommand::New(arguments) => new(arguments, Timestamp::now(), as_json),
        KeysCommand::List(arguments) => list(arguments, Timestamp::now(), as_json),
        KeysCommand::Revoke(arguments) => revoke(arguments, as_json),
        KeysCommand::CallbackSecret(arguments) => {
            print_callback_secrets(&arguments.tenant, callbacks_secret()?, as_json)
        }
    }
    .map_err(|fault| Failure::usage(fault.to_string()))
}

fn new(arguments: &NewArguments, now: Timestamp, as_json: bool) -> Result<Exit, Fault> {
    let NewArguments { tenant, scopes, expires, file } = arguments;
    let mut scopes = scopes.clone();
    scopes.sort_unstable();
    scopes.dedup();
    let expires = expires.map(|days| days_after(now, days)).transpose()?;
    let key = Key::generate()?;
    let entry = edit::entry(tenant, &key, &scopes, expires);
    if let Some(path) = file {
        // Before the key is printed: a key that is not in the file is of no use.
        add(path, &entry)?;
    }
    if as_json {
        let (id, sha256) = (key.id(), key.sha256());
        print_json(
            "key",
            &json!({
                "key": key.expose(), "id": id, "tenant": tenant, "scopes": scopes, "expires": expires, "sha256": sha256,
            }),
        );
        return Ok(Exit::Success);
    }
    print_line(key.expose());
    match file {
        Some(path) => print_error(format_args!("added the key {} of {tenant} to {}", key.id(), path.display())),
        None => print_error(format_args!("{}", entry.trim_end())),
    }
    Ok(Exit::Success)
}

/// A whole second, as it is written in the file.
fn days_after(now: Timestamp, days: u32) -> Result<Timestamp, Fault> {
    let end = now.checked_add(SignedDuration::from_hours(i64::from(days) * 24));
    let end = end.and_then(|end| Timestamp::from_second(end.as_second()));
    end.map_err(|error| Fault::refused("the key would end later than any calendar goes").because(error))
}

fn add(path: &Path, entry: &str) -> Result<(), Fault> {
    let file = TenantsFile::new(path);
    let text = if path.exists() { file.text()? } else { String::new() };
    let changed = edit::with_entry(&text, entry).map_err(|fault| in_file(path, &fault))?;
    file.replace(&changed)
}

fn in_file(path: &Path, fault: &Fault) -> Fault {
    Fault::new(fault.kind(), format!("{}, {fault}", path.display()))
}

fn list(arguments: &ListArguments, now: Timestamp, as_json: bool) -> Result<Exit, Fault> {
    let tenants = TenantsFile::new(&arguments.file).load()?;
    if let Some(wanted) = &arguments.tenant
        && tenants.get(wanted).is_none()
    {
        return Err(Fault::not_found(format!("{} has no tenant {wanted}", arguments.file.display())));
    }
    for (name, _) in tenants.iter() {
        if arguments.tenant.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        for key in tenants.keys_of(name) {
            if as_json {
                let KeyEntry { id, scopes, expires, .. } = key;
                let value = json!({
                    "id": id, "tenant": name, "scopes": scopes, "expires": expires, "expired": key.is_expired(now),
                });
                print_json("key", &value);
            } else {
                print_line(&in_words(name, key, now));
            }
        }
    }
    Ok(Exit::Success)
}

fn in_words(tenant: &TenantName, key: &KeyEntry, now: Timestamp) -> String {
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    let end = match key.expires {
        None => "does not expire".to_owned(),
        Some(end) if key.is_expired(now) => format!("expired on {}", end.strftime("%Y-%m-%d")),
        Some(end) => format!("expires on {}", end.strftime("%Y-%m-%d")),
    };
    format!("{}  {tenant}  {}  {end}", key.id, scopes.join(","))
}

fn revoke(arguments: &RevokeArguments, as_json: bool) -> Result<Exit, Fault> {
    let path = &arguments.file;
    let file = TenantsFile::new(path);
    let ids = arguments
        .ids
        .iter()
        .map(|id| id.parse::<KeyId>().map_err(|error| Fault::from_error(FaultKind::Refused, error)));
    let (ids, mut text) = (ids.collect::<Result<Vec<_>, _>>()?, file.text()?);
    for id in &ids {
        text = edit::without_key(&text, id).map_err(|fault| in_file(path, &fault))?;
    }
    file.replace(&text)?;
    for id in &ids {
        if as_json {
            print_json("revoked", &json!({ "id": id }));
        } else {
            print_line(&format!("revoked {id}"));
        }
    }
    Ok(Exit::Success)
}

fn print_callback_secrets(tenant: &TenantName, installation: Option<Secret>, as_json: bool) -> Result<Exit, Fault> {
    let secrets = installation.map(|secret| callback_secrets_of(&secret, tenant.as_str())).unwrap_or_default();
    if secrets.is_empty() {
        return Err(Fault::refused("callbacks.secret is not set, so callbacks are not signed"));
    }
    for secret in secrets {
        if as_json {
            print_json("callback_secret", &json!({ "tenant": tenant, "secret": secret.expose() }));
        } else {
            print_line(secret.expose());
        }
    }
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests;
