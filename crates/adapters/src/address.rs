//! Addresses of servers, as operators and their tools write them:
//! `scheme://user:password@host:port,host:port/path?option=value#fragment`.
//!
//! Client libraries parse such an address as a URL. That is wrong for two kinds of address that operators' tools produce: a
//! raw special character in a password ends the host early, and an IPv6 literal is not a "domain". So the address is parsed
//! here, and the libraries get its parts.
//!
//! What must stay true: a connection is made only to a host that the address names. An ambiguous address is refused, and so
//! is a host that the system's resolver would take for another one; see [`host`]. Errors never quote a part that may belong
//! to a password.

#[cfg(test)]
pub(crate) mod arbitrary;
mod host;

use echogen_ports::Secret;
use percent_encoding::percent_decode_str;

pub(crate) use host::Server;

/// Why an address is refused, and how to write it. To be appended to the setting's name.
pub(crate) type Refusal = String;

/// The parts of an address. Only its path is still percent-encoded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Address {
    /// In lower case.
    pub(crate) scheme: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    /// At least one.
    pub(crate) servers: Vec<Server>,
    /// What follows the `/` after the servers; absent if there is no `/`.
    pub(crate) path: Option<String>,
    /// Names and values.
    pub(crate) options: Vec<(String, String)>,
    pub(crate) fragment: Option<String>,
}

/// What addresses of one kind of server look like.
pub(crate) struct Form {
    /// Their schemes: the plain one, the one for TLS, and others that mean the same.
    pub(crate) schemes: &'static [&'static str],
    /// One of them, for errors.
    pub(crate) example: &'static str,
    /// Ports of other services of the same server, which are not suggested in errors.
    pub(crate) other_ports: &'static [u16],
    /// Refuses the parts of an address that are wrong for this kind of server.
    pub(crate) is_meant: fn(&Address) -> Result<(), Refusal>,
}

impl Form {
    /// Parses an address.
    pub(crate) fn read(&self, text: &str) -> Result<Address, Refusal> {
        let (scheme, rest) = self.scheme(text)?;
        if rest.contains("://") {
            let advice = "separate the hosts of a cluster by commas, and write : in a password as %3A";
            return Err(self.refusal(&format!("contains a second ://; {advice}")));
        }
        if rest.chars().any(char::is_control) {
            return Err(self.refusal("contains a control character"));
        }
        // The `@` after user and password: where a URL parser finds it, and the last one of all.
        let (strict, last) = (rest[..end_of_servers(rest)].rfind('@'), rest.rfind('@'));
        let read = |at| {
            let address = Address::of(&scheme, rest, at)?;
            (self.is_meant)(&address).map(|()| address)
        };
        let address = if strict == last { read(last) } else { self.choose(read(strict), read(last)) };
        address.map_err(|why| self.refusal(&why))
    }

    /// Chooses between the two readings of an address with an `@` after its first `/`, `?` or `#`: either these characters
    /// belong to a raw password, which is the second reading, or the `@` belongs to the path.
    fn choose(&self, strict: Result<Address, Refusal>, last: Result<Address, Refusal>) -> Result<Address, Refusal> {
        let (strict, last) = match (strict, last) {
            (Ok(strict), Ok(last)) => (strict, last),
            // The error of the first reading names the wrong part more precisely.
            (Err(why), Err(_)) => return Err(why),
            (one, other) => return one.or(other),
        };
        // A path that ends like `@host:5672` is unlikely.
        if strict.servers.iter().all(|server| server.port.is_none())
            && last.servers.iter().all(|server| server.port.is_some())
        {
            return Ok(last);
        }
        Err("can be read in two ways; write @ as %40 and / as %2F wherever they belong to the password or the path"
            .to_owned())
    }

    fn scheme<'t>(&self, text: &'t str) -> Result<(String, &'t str), Refusal> {
        let [plain, ..] = self.schemes else { return Err("has no form".to_owned()) };
        let Some((scheme, rest)) = text.split_once("://") else {
            let why = format!("does not begin with {plain}://");
            return Err(self
                .corrected(plain, text)
                .map_or_else(|| self.refusal(&why), |write| format!("{why}; {write}")));
        };
        let scheme = scheme.to_ascii_lowercase();
        if self.schemes.contains(&scheme.as_str()) {
            return Ok((scheme, rest));
        }
        let why = format!("begins with another scheme than {}://", self.schemes.join(":// or "));
        let secure = matches!(scheme.as_str(), "https" | "tls" | "ssl");
        let scheme = self.schemes.get(usize::from(secure)).unwrap_or(plain);
        Err(self.corrected(scheme, rest).map_or_else(|| self.refusal(&why), |write| format!("{why}; {write}")))
    }

    /// The corrected form of an address without a scheme, or with another one. Only if the address consists of servers
    /// alone: any other part may belong to a password.
    fn corrected(&self, scheme: &str, rest: &str) -> Option<String> {
        let address = Address::of(scheme, rest.trim_end_matches('/'), None).ok()?;
        let is_plain = address.path.is_none() && address.options.is_empty() && address.fragment.is_none();
        let server =
            |server: Server| Server { port: server.port.filter(|port| !self.other_ports.contains(port)), ..server };
        let servers: Vec<String> = address.servers.into_iter().map(|one| server(one).to_string()).collect();
        (is_plain && !rest.contains('@')).then(|| format!("write {scheme}://{}", servers.join(",")))
    }

    /// An error that says how to write an address, unless it says so already.
    pub(crate) fn refusal(&self, why: &str) -> Refusal {
        if why.contains("; write ") { why.to_owned() } else { format!("{why}; write it as {}", self.example) }
    }
}

impl Address {
    /// Parses what follows `scheme://`; user and password end at the `@` at this position.
    fn of(scheme: &str, rest: &str, at: Option<usize>) -> Result<Self, Refusal> {
        let (credentials, rest) = match at {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        let (servers, rest) = rest.split_at(end_of_servers(rest));
        let (rest, fragment) = split(rest, '#');
        let (path, query) = split(rest, '?');
        let (user, password) = credentials.map_or((None, None), |text| {
            let (user, password) = split(text, ':');
            (Some(user), password)
        });
        Ok(Self {
            scheme: scheme.to_owned(),
            user: user.map(decode).transpose()?,
            password: password.map(decode).transpose()?.map(Secret::verbatim),
            servers: servers.split(',').map(Server::read).collect::<Result<_, _>>()?,
            path: path.strip_prefix('/').map(str::to_owned),
            options: options(query.unwrap_or_default())?,
            fragment: fragment.map(decode).transpose()?,
        })
    }
}

/// Where the servers end, as a URL parser reads an address.
fn end_of_servers(rest: &str) -> usize {
    rest.find(['/', '?', '#']).unwrap_or(rest.len())
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn options(query: &str) -> Result<Vec<(String, String)>, Refusal> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let decoded = pairs.map(|pair| {
        let (name, value) = split(pair, '=');
        Ok((decode(name)?, decode(value.unwrap_or_default())?))
    });
    decoded.collect()
}

/// Decodes percent-encoding; a `%` without two hexadecimal digits stands for itself.
pub(crate) fn decode(text: &str) -> Result<String, Refusal> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded =
        decoded.map_err(|_| "contains percent-encoded bytes that are not UTF-8; write % itself as %25".to_owned())?;
    if decoded.contains('\0') { Err("contains %00".to_owned()) } else { Ok(decoded.into_owned()) }
}
