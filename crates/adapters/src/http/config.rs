//! What may be reached on the web, and how long that may take.

use std::{net::IpAddr, time::Duration};

use echogen_ports::{Backoff, Fault, FaultKind, Secret, seconds};
use http::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    networks::{AllowedNetwork, not_public},
    signing_key::{SigningKey, signing_keys},
};
use crate::tls::Trust;

/// The settings of an [`HttpImageFetcher`](super::HttpImageFetcher).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Hosts that pictures are fetched from: `example.org` for that host, `*.example.org` for all below it. Empty: all
    /// public hosts.
    pub allowed_hosts: Vec<String>,
    /// Networks that pictures may be fetched from although they are not public, such as `10.1.0.0/16` for a server of
    /// your own.
    pub allowed_networks: Vec<AllowedNetwork>,
    /// Whether redirects may lead to `http://`. A job's own address is always `https://`.
    pub allow_http: bool,
    /// Authorities whose certificates are trusted in addition to the system's, as PEM text or as the path of a PEM file.
    pub certificates: Option<String>,
    /// Number of redirects that are followed.
    pub max_redirects: u32,
    /// Seconds to wait for a connection.
    pub connect_timeout_seconds: f64,
    /// Time limit in seconds for a picture, including redirects.
    pub timeout_seconds: f64,
    /// Bytes that all pictures of a dispatcher may take together until they are stored; further pictures wait. A picture takes
    /// memory as its bytes arrive. One at a time may exceed this limit, so that the others need not wait for each other.
    pub memory_bytes: u64,
    /// User-Agent header of every request. Some servers refuse requests without a contact in it: write `echogen/1
    /// (+https://example.org/pictures; pictures@example.org)` with your own.
    pub user_agent: String,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            allowed_networks: Vec::new(),
            allow_http: false,
            certificates: None,
            max_redirects: 5,
            connect_timeout_seconds: 5.0,
            timeout_seconds: 30.0,
            // A dispatcher fetches for all its tasks concurrently: four pictures of the largest size, or many average ones.
            memory_bytes: 256 << 20,
            user_agent: USER_AGENT.to_owned(),
        }
    }
}

impl HttpConfig {
    /// Checks what can be checked without a server. Errors begin with the setting's name.
    pub fn check(&self) -> Result<(), Fault> {
        self.access("fetch").map(drop)
    }

    pub(super) fn access(&self, section: &str) -> Result<WebAccess, Fault> {
        let trust = Trust::with(self.certificates.as_deref());
        Ok(WebAccess {
            allowed_hosts: self.allowed_hosts.clone(),
            allowed_networks: self.allowed_networks.clone(),
            allow_http: self.allow_http,
            trust: trust.map_err(|why| Fault::refused(format!("{section}.certificates {why}")))?,
            connect_timeout: limit(section, "connect_timeout_seconds", self.connect_timeout_seconds)?,
            timeout: limit(section, "timeout_seconds", self.timeout_seconds)?,
            user_agent: user_agent(section, &self.user_agent)?,
        })
    }
}

/// The settings of an [`HttpCallbackSender`](super::HttpCallbackSender).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CallbackConfig {
    /// Hosts that callbacks may be sent to: `example.org` for that host, `*.example.org` for all below it. Empty: all
    /// public hosts.
    pub allowed_hosts: Vec<String>,
    /// Networks that callbacks may be sent to although they are not public, such as `10.1.0.0/16`.
    pub allowed_networks: Vec<AllowedNetwork>,
    /// Authorities whose certificates are trusted in addition to the system's, as PEM text or as the path of a PEM file.
    pub certificates: Option<String>,
    /// Signs callbacks as Standard Webhooks specify: `whsec_` and 24 to 64 random bytes in base64, as `openssl rand
    /// -base64 32` prints them. During a rotation give both, separated by a comma. Callbacks of
    /// a tenant's jobs are also signed with a secret of its own, which `echogen keys callback-secret` derives. Absent:
    /// callbacks are not signed.
    pub secret: Option<Secret>,
    /// Seconds to wait for a connection.
    pub connect_timeout_seconds: f64,
    /// Seconds to wait for the response to a callback.
    pub timeout_seconds: f64,
    /// User-Agent header of every callback, by which receivers and their firewalls know them.
    pub user_agent: String,
    /// Waits between two attempts of a callback. A receiver that is redeployed is called again soon; one that is away for
    /// hours is not forgotten.
    pub backoff: Backoff,
    /// Seconds after which a callback that was never accepted is parked among the dead letters.
    pub give_up_after_seconds: f64,
}

impl Default for CallbackConfig {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            allowed_networks: Vec::new(),
            certificates: None,
            secret: None,
            connect_timeout_seconds: 5.0,
            timeout_seconds: 10.0,
            user_agent: USER_AGENT.to_owned(),
            backoff: Backoff { first_seconds: 5.0, factor: 2.0, max_seconds: 4.0 * 3_600.0 },
            give_up_after_seconds: 86_400.0,
        }
    }
}

impl CallbackConfig {
    /// Checks what can be checked without a server. Errors begin with the setting's name.
    pub fn check(&self) -> Result<(), Fault> {
        self.keys()?;
        limit("callbacks", "give_up_after_seconds", self.give_up_after_seconds)?;
        self.access().map(drop)
    }

    pub(super) fn access(&self) -> Result<WebAccess, Fault> {
        let web = HttpConfig {
            allowed_hosts: self.allowed_hosts.clone(),
            allowed_networks: self.allowed_networks.clone(),
            certificates: self.certificates.clone(),
            connect_timeout_seconds: self.connect_timeout_seconds,
            timeout_seconds: self.timeout_seconds,
            user_agent: self.user_agent.clone(),
            ..HttpConfig::default()
        };
        web.access("callbacks")
    }

    /// The keys with which every callback is signed.
    pub(super) fn keys(&self) -> Result<Vec<SigningKey>, Fault> {
        signing_keys("callbacks.secret", self.secret.as_ref())
    }
}

/// The default User-Agent header.
const USER_AGENT: &str = concat!("echogen/", env!("CARGO_PKG_VERSION"));

fn limit(section: &str, name: &str, value: f64) -> Result<Duration, Fault> {
    seconds(value).map_err(|error| Fault::refused(format!("{section}.{name} {error}")))
}

/// Longer ones are cut or refused by servers.
const MAX_USER_AGENT_BYTES: usize = 256;

/// Checks a product with its version and comments, as RFC 9110 describes the header.
fn user_agent(section: &str, text: &str) -> Result<HeaderValue, Fault> {
    let is_visible = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if text.is_empty() || text.trim() != text || text.len() > MAX_USER_AGENT_BYTES || !is_visible {
        let message = format!(
            "{section}.user_agent is {:?}; write 1 to {MAX_USER_AGENT_BYTES} visible ASCII characters, such as \
             {USER_AGENT:?}",
            text.chars().take(MAX_USER_AGENT_BYTES).collect::<String>()
        );
        return Err(Fault::refused(message));
    }
    HeaderValue::from_str(text).map_err(|error| Fault::from_error(FaultKind::Refused, error))
}

/// Settings that have been checked: which servers a client may reach, and its timeouts.
#[derive(Clone, Debug)]
pub(super) struct WebAccess {
    pub(super) allowed_hosts: Vec<String>,
    pub(super) allowed_networks: Vec<AllowedNetwork>,
    pub(super) allow_http: bool,
    pub(super) trust: Trust,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
    pub(super) user_agent: HeaderValue,
}

impl WebAccess {
    /// Whether the host is allowed by its name.
    pub(super) fn allows_host(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let allows = |allowed: &String| {
            let allowed = allowed.to_ascii_lowercase();
            match allowed.strip_prefix("*.") {
                Some(above) => host.strip_suffix(above).is_some_and(|below| below.len() > 1 && below.ends_with('.')),
                None => host == allowed,
            }
        };
        self.allowed_hosts.is_empty() || self.allowed_hosts.iter().any(allows)
    }

    /// What the IP address belongs to, if it must not be reached.
    pub(super) fn refused(&self, address: IpAddr) -> Option<&'static str> {
        let whose = not_public(address)?;
        let allowed = self.allowed_networks.iter().any(|network| network.contains(address));
        (!allowed).then_some(whose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(allowed: &[&str]) -> WebAccess {
        let allowed_hosts = allowed.iter().map(|host| (*host).to_owned()).collect();
        HttpConfig { allowed_hosts, ..HttpConfig::default() }.access("fetch").unwrap()
    }

    #[test]
    fn hosts_are_allowed_by_name_or_by_what_is_above_them() {
        let access = hosts(&["example.org", "*.Pictures.example"]);
        for host in ["example.org", "EXAMPLE.org", "example.org.", "a.pictures.example", "a.b.pictures.example"] {
            assert!(access.allows_host(host), "{host}");
        }
        for host in
            ["pictures.example", "a.example.org", "badexample.org", "xpictures.example", ".pictures.example", ""]
        {
            assert!(!access.allows_host(host), "{host}");
        }
        assert!(hosts(&[]).allows_host("anything"));
    }

    #[test]
    fn wrong_settings_are_refused_by_name() {
        let fetch = HttpConfig::default();
        let callbacks = CallbackConfig::default();
        let faults = [
            (HttpConfig { timeout_seconds: -1.0, ..fetch.clone() }.check(), "fetch.timeout_seconds is -1"),
            (HttpConfig { user_agent: "a\nb".into(), ..fetch.clone() }.check(), "fetch.user_agent"),
            (CallbackConfig { timeout_seconds: 0.0, ..callbacks.clone() }.check(), "callbacks.timeout_seconds is 0"),
            (CallbackConfig { secret: Some("hunter2".into()), ..callbacks.clone() }.check(), "callbacks.secret is no"),
        ];
        for (checked, start) in faults {
            let error = checked.unwrap_err();
            assert!(error.is_permanent() && error.to_string().starts_with(start), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        assert!(fetch.check().is_ok() && callbacks.check().is_ok());
    }

    #[test]
    fn a_user_agent_is_a_header_of_visible_characters() {
        let check = |user_agent: &str| {
            let user_agent = user_agent.to_owned();
            let callbacks = CallbackConfig { user_agent: user_agent.clone(), ..CallbackConfig::default() }.check();
            let fetch = HttpConfig { user_agent, ..HttpConfig::default() }.check();
            assert_eq!(fetch.is_ok(), callbacks.is_ok());
            fetch.map_err(|error| error.to_string())
        };
        let longest = "a".repeat(MAX_USER_AGENT_BYTES);
        for good in [USER_AGENT, "mine/2 (+https://example.org/bots; bots@example.org) echogen/1", &longest] {
            check(good).unwrap();
        }
        for bad in ["", " ", " echogen", "echogen\n", "a\r\nCookie: b", "a\tb", "ech\u{f6}gen", &format!("{longest}a")]
        {
            let error = check(bad).unwrap_err();
            assert!(error.starts_with("fetch.user_agent is ") && error.len() < 500, "{error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn one_secret_replaces_another_while_both_are_given() {
        let (old, new) = (format!("whsec_{}", "b2xk".repeat(8)), format!("whsec_{}", "bmV3".repeat(8)));
        for (text, count) in
            [(old.clone(), 1), (format!("{old},{new}"), 2), (format!("{old}\n {new} \n"), 2), (String::new(), 0)]
        {
            let config = CallbackConfig { secret: Some(text.into()), ..CallbackConfig::default() };
            assert_eq!(config.keys().unwrap().len(), count, "{}", config.secret.unwrap().expose());
        }
    }
}
