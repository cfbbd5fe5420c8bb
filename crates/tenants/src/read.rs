//! Reads `tenants.toml`: strictly, within bounds, and with the line of each error.

use std::{collections::BTreeMap, ops::Range, str::FromStr};

use echogen_protocol::{
    ContentHash, Lane, check_object_key,
    text::{one_line, quoted},
};
use jiff::Timestamp;
use serde::Deserialize;
use toml::{Spanned, value::Datetime};

use crate::{
    KeyEntry, KeyId, Limits, Prices, Scope, Tenant, TenantName, Tenants,
    key::{PREFIX, is_like_a_key},
};

/// The largest file: some ten thousand tenants.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// What is wrong with the text, and where. It quotes no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct TenantsError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what to write.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tenants: BTreeMap<Spanned<String>, TenantEntry>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TenantEntry {
    lanes: Option<Spanned<Vec<Lane>>>,
    limits: Option<Spanned<Limits>>,
    prices: Option<Spanned<Prices>>,
    pictures_from: Vec<Spanned<String>>,
    callback_hosts: Vec<Spanned<String>>,
    keys: Vec<FileKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKey {
    id: Spanned<String>,
    sha256: Spanned<String>,
    scopes: Option<Spanned<Vec<Scope>>>,
    expires: Option<Spanned<Datetime>>,
}

/// What is wrong at a place in the text.
type Wrong = (Range<usize>, String);

impl FromStr for Tenants {
    type Err = TenantsError;

    fn from_str(text: &str) -> Result<Self, TenantsError> {
        if text.len() as u64 > MAX_FILE_BYTES {
            let message = format!("the file has {} bytes; the limit is {MAX_FILE_BYTES}", text.len());
            return Err(TenantsError { line: 1, message });
        }
        let at = |start: usize| text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
        let file: File = toml::from_str(text).map_err(|error| TenantsError {
            line: at(error.span().map_or(0, |span| span.start)),
            // The library's full message also quotes the line.
            message: with_hint(&without_keys(error.message())),
        })?;
        file.tenants().map_err(|(span, message)| TenantsError { line: at(span.start), message: one_line(&message) })
    }
}

impl File {
    fn tenants(self) -> Result<Tenants, Wrong> {
        let mut tenants = Tenants::default();
        for (name, entry) in self.tenants {
            let span = name.span();
            let name: TenantName = name.get_ref().parse().map_err(|error| (span, format!("{error}")))?;
            let keys = entry.tenant().map(|(tenant, keys)| {
                tenants.insert(name.clone(), tenant);
                keys
            })?;
            for key in keys {
                let (span, key) = key.entry()?;
                let id = key.id.clone();
                if !tenants.insert_key(name.clone(), key) {
                    return Err((span, format!("there are two keys with the id {id}")));
                }
            }
        }
        Ok(tenants)
    }
}

impl Default for TenantEntry {
    fn default() -> Self {
        let (lanes, limits, prices) = (None, None, None);
        Self { lanes, limits, prices, pictures_from: Vec::new(), callback_hosts: Vec::new(), keys: Vec::new() }
    }
}

impl TenantEntry {
    fn tenant(self) -> Result<(Tenant, Vec<FileKey>), Wrong> {
        let default = Tenant::default();
        let (mut lanes, mut limits, mut prices) = (default.lanes, default.limits, default.prices);
        if let Some(given) = self.lanes {
            let span = given.span();
            lanes = given.into_inner();
            if lanes.is_empty() {
                return Err((span, "lanes is empty; leave it out for all lanes".to_owned()));
            }
        }
        if let Some(given) = self.limits {
            let span = given.span();
            limits = given.into_inner();
            limits.fault().map_or(Ok(()), |why| Err((span, format!("limits: {why}"))))?;
        }
        if let Some(given) = self.prices {
            let span = given.span();
            prices = given.into_inner();
            prices.fault().map_or(Ok(()), |why| Err((span, format!("prices: {why}"))))?;
        }
        let pictures_from = self.pictures_from.into_iter().map(folder).collect::<Result<_, _>>()?;
        let callback_hosts = self.callback_hosts.into_iter().map(host).collect::<Result<_, _>>()?;
        Ok((Tenant { lanes, limits, prices, pictures_from, callback_hosts }, self.keys))
    }
}

fn folder(given: Spanned<String>) -> Result<String, Wrong> {
    let text = given.get_ref();
    let is_folder = text.strip_prefix("s3://").and_then(|place| place.strip_suffix('/')).is_some_and(|place| {
        let (bucket, folder) = place.split_once('/').unwrap_or((place, "x"));
        !bucket.contains("..") && check_object_key(bucket).is_ok() && check_object_key(folder).is_ok()
    });
    if !is_folder {
        let message =
            format!("{} is no folder of a bucket; write s3://BUCKET/FOLDER/, with a / at the end", quoted(text));
        return Err((given.span(), message));
    }
    Ok(given.into_inner())
}

fn host(given: Spanned<String>) -> Result<String, Wrong> {
    let text = given.get_ref();
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'[' | b']');
    if text.is_empty() || !text.bytes().all(is_host) || (text.contains(':') && !text.starts_with('[')) {
        let message = format!("{} is no host; write its name alone, such as hooks.example.org", quoted(text));
        return Err((given.span(), message));
    }
    Ok(text.to_ascii_lowercase())
}

impl FileKey {
    fn entry(self) -> Result<(Range<usize>, KeyEntry), Wrong> {
        let span = self.id.span();
        let id: KeyId = self.id.get_ref().parse().map_err(|error| (span.clone(), format!("{error}")))?;
        let hash = self.sha256.get_ref();
        let sha256: ContentHash = hash.parse().map_err(|_| {
            let message = if is_like_a_key(hash) {
                "sha256 is a key itself; put its SHA-256 here, and make another key: this one has been in a file"
            } else {
                "sha256 is no SHA-256: 64 hexadecimal digits, as `echogen keys new` prints them"
            };
            (self.sha256.span(), message.to_owned())
        })?;
        let scopes = match self.scopes {
            Some(given) if given.get_ref().is_empty() => {
                return Err((given.span(), "scopes is empty; write [\"jobs\"]".to_owned()));
            }
            Some(given) => given.into_inner(),
            None => vec![Scope::Jobs],
        };
        let expires = self.expires.map(moment).transpose()?;
        Ok((span, KeyEntry::new(id, sha256, scopes, expires)))
    }
}

fn moment(given: Spanned<Datetime>) -> Result<Timestamp, Wrong> {
    let text = given.get_ref().to_string();
    // A time without a zone would depend on the machine that reads it.
    text.parse().map_err(|_| (given.span(), format!("{text} is no moment; write it like 2027-01-01T00:00:00Z")))
}

/// A message of the library, in which a key may be quoted that is at a wrong place.
fn without_keys(message: &str) -> String {
    let mut shown = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(start) = rest.find(PREFIX) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-')).unwrap_or(from.len());
        shown.push_str(before);
        shown.push_str("eg_...");
        rest = &from[end..];
    }
    shown + rest
}

/// Adds the nearest name to a message about an unknown one: ``unknown field `x`, expected one of `a`, `b` ``.
fn with_hint(message: &str) -> String {
    let message = one_line(&message.replace('\n', ", "));
    if !message.starts_with("unknown ") {
        return message;
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let Some(unknown) = names.next() else { return message };
    let near = names.map(|known| (strsim::damerau_levenshtein(unknown, known), known)).min();
    match near {
        Some((distance, known)) if distance <= 1 + known.len() / 3 => format!("{message}; did you mean `{known}`?"),
        _ => message,
    }
}

#[cfg(test)]
mod tests;
