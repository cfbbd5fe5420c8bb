//! Credentials in addresses are hidden where a text is shown that is not known to be free of them.

/// What stands in place of a user and a password.
const HIDDEN: &str = "***";

/// Hides user and password in every address of a text: `amqp://***@host`.
pub(crate) fn hide_credentials(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | ','));
        let (address, behind) = after.split_at(end.unwrap_or(after.len()));
        match address.rfind('@') {
            // A password may contain the characters that end it, so everything up to the last `@` is hidden.
            Some(at) if has_credentials(address) => {
                shown.push_str(HIDDEN);
                shown.push_str(&address[at..]);
            }
            _ => shown.push_str(address),
        }
        rest = behind;
    }
    shown + rest
}

/// Returns whether an address, without its scheme, may begin with a user and a password: there is an `@` before the path, or
/// what seems to be the port is none and so the beginning of a password.
fn has_credentials(address: &str) -> bool {
    let authority = address.split(['/', '?', '#']).next().unwrap_or_default();
    let is_port = |port: &str| port.is_empty() || port.chars().all(|c| c.is_ascii_digit() || c == ']');
    authority.contains('@') || authority.rsplit_once(':').is_some_and(|(_, port)| !is_port(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords_are_hidden_and_all_else_stays() {
        for (text, shown) in [
            ("amqp://u:hunter2@h:5672/%2f", "amqp://***@h:5672/%2f"),
            ("amqp://u:hun/ter2@h, redis://:hunter2@h", "amqp://***@h, redis://***@h"),
            ("unexpected 'http://u:p@hunter2@h' found", "unexpected 'http://***@h' found"),
            ("amqp://u:hunter2?x#@h1", "amqp://***@h1"),
            ("s3://k:hunter2@bucket/x", "s3://***@bucket/x"),
            ("https://hunter2@h/@me", "https://***@me"),
            ("https://h/@me/dog.png and me@h", "https://h/@me/dog.png and me@h"),
            ("http://[2001:db8::1]:80/a@b", "http://[2001:db8::1]:80/a@b"),
            ("http://h:80/a@b", "http://h:80/a@b"),
            ("no address: //", "no address: //"),
            ("://", "://"),
        ] {
            assert_eq!(hide_credentials(text), shown);
        }
    }
}
