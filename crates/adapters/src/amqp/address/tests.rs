//! Addresses of RabbitMQ in the forms in which operators and their tools write them.

use proptest::prelude::*;

use super::*;
use crate::address::arbitrary::{encode, host};

/// What is connected to, as text: scheme, user, password, hosts with ports, virtual host.
fn parts(text: &str) -> Result<String, Refusal> {
    let uris = read(text)?;
    let hosts: Vec<String> = uris.iter().map(|uri| format!("{} {}", uri.authority.host, uri.authority.port)).collect();
    let AMQPUri { scheme, authority: AMQPAuthority { userinfo, .. }, vhost, .. } = &uris[0];
    assert!(uris.iter().all(|uri| uri.vhost == *vhost && uri.authority.userinfo == *userinfo && uri.scheme == *scheme));
    Ok([&scheme.to_string(), &userinfo.username, &userinfo.password, &hosts.join(","), vhost]
        .map(String::as_str)
        .join("|"))
}

#[test]
fn addresses_are_read_as_they_are_meant() {
    for (text, expected) in [
        // Hosts.
        ("amqp://rabbit", "amqp|guest|guest|rabbit 5672|/"),
        ("amqp://rabbit:5673", "amqp|guest|guest|rabbit 5673|/"),
        ("AMQP://Rabbit.Example", "amqp|guest|guest|Rabbit.Example 5672|/"),
        ("amqps://u:p@rabbit.example.org./", "amqps|u|p|rabbit.example.org. 5671|/"),
        ("amqp://my_rabbit-0.my_rabbit:5672", "amqp|guest|guest|my_rabbit-0.my_rabbit 5672|/"),
        ("amqp://bücher.example", "amqp|guest|guest|xn--bcher-kva.example 5672|/"),
        ("amqp://u:p@192.0.2.1/", "amqp|u|p|192.0.2.1 5672|/"),
        ("amqp://guest:guest@[2001:db8::1]:5672/%2f", "amqp|guest|guest|2001:db8::1 5672|/"),
        ("amqps://[::1]", "amqps|guest|guest|::1 5671|/"),
        ("amqp://[::ffff:192.0.2.1]/v", "amqp|guest|guest|::ffff:192.0.2.1 5672|v"),
        // The hosts of a cluster.
        ("amqp://u:p@a,b:5673,[2001:db8::1]:5674/v", "amqp|u|p|a 5672,b 5673,2001:db8::1 5674|v"),
        ("amqps://u:p@a,b", "amqps|u|p|a 5671,b 5671|/"),
        // Virtual hosts.
        ("amqp://u:p@h/", "amqp|u|p|h 5672|/"),
        ("amqp://u:p@h//", "amqp|u|p|h 5672|/"),
        ("amqp://u:p@h/%2f", "amqp|u|p|h 5672|/"),
        ("amqp://u:p@h/%2F", "amqp|u|p|h 5672|/"),
        ("amqp://u:p@h/prod", "amqp|u|p|h 5672|prod"),
        ("amqp://u:p@h/%2fprod", "amqp|u|p|h 5672|/prod"),
        ("amqp://u:p@h/a/b", "amqp|u|p|h 5672|a/b"),
        ("amqp://u:p@h/a%20b%40c%23d", "amqp|u|p|h 5672|a b@c#d"),
        ("amqp://u:p@h/50%", "amqp|u|p|h 5672|50%"),
        ("amqp://u:p@h/größe", "amqp|u|p|h 5672|größe"),
        // Passwords, encoded and raw.
        ("amqp://u:%40%3A%2F%23%3F%25@h/v", "amqp|u|@:/#?%|h 5672|v"),
        ("amqp://us%40er:p@h", "amqp|us@er|p|h 5672|/"),
        ("amqp://u:@h/v", "amqp|u||h 5672|v"),
        ("amqp://u:p@ss@h/v", "amqp|u|p@ss|h 5672|v"),
        ("amqp://u:p:ss@h/v", "amqp|u|p:ss|h 5672|v"),
        ("amqp://u:p/ss@h/v", "amqp|u|p/ss|h 5672|v"),
        ("amqp://u:/@h", "amqp|u|/|h 5672|/"),
        ("amqp://u:p#ss@h:5673/v", "amqp|u|p#ss|h 5673|v"),
        ("amqp://u:p?ss@h/v", "amqp|u|p?ss|h 5672|v"),
        ("amqp://u:100%@h/v", "amqp|u|100%|h 5672|v"),
        ("amqp://u:p%zz@h/v", "amqp|u|p%zz|h 5672|v"),
        ("amqp://u:a+b&c=d;e!$'()*[]{}|^`\\\"<>~@h/v", "amqp|u|a+b&c=d;e!$'()*[]{}|^`\\\"<>~|h 5672|v"),
        ("amqp://u:pässwörd@h/v", "amqp|u|pässwörd|h 5672|v"),
        ("amqp://u:p%C3%A4ss@h/v", "amqp|u|päss|h 5672|v"),
        ("amqp://u:pa ss@h/v", "amqp|u|pa ss|h 5672|v"),
        ("amqp://u:1/2#3?4@5:6%7@h:5672/v", "amqp|u|1/2#3?4@5:6%7|h 5672|v"),
        ("amqp://u:p@ss/word@h:5672/%2f", "amqp|u|p@ss/word|h 5672|/"),
        ("amqp://u:p@ss/w#ord@[2001:db8::1]/v", "amqp|u|p@ss/w#ord|2001:db8::1 5672|v"),
        ("amqp://u:a,b@h,i/v", "amqp|u|a,b|h 5672,i 5672|v"),
        // An `@` that belongs to the virtual host.
        ("amqp://rabbit/v@w", "amqp|guest|guest|rabbit 5672|v@w"),
    ] {
        assert_eq!(parts(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_corrected_spelling() {
    for (text, why) in [
        // Another scheme, or none.
        ("rabbit", "write amqp://rabbit"),
        ("rabbit:5673", "write amqp://rabbit:5673"),
        ("[2001:db8::1]:5672", "write amqp://[2001:db8::1]:5672"),
        ("http://rabbit:15672/", "write amqp://rabbit"),
        ("https://rabbit", "write amqps://rabbit"),
        ("tcp://rabbit:5672", "write amqp://rabbit:5672"),
        ("pyamqp://u:hunter2@rabbit", "another scheme than amqp:// or amqps://; write it as amqp://user:password@host"),
        ("amqp:rabbit", "does not begin with amqp://"),
        ("amqp:/rabbit", "does not begin with amqp://"),
        ("u:hunter2@rabbit", "does not begin with amqp://; write it as"),
        ("", "does not begin with amqp://"),
        // Hosts.
        ("amqp://", "names no host"),
        ("amqp:///vhost", "names no host"),
        ("amqp://:5672", "names no host"),
        ("amqp://u:hunter2@", "names no host"),
        ("amqp://u:hunter2@:5672/v", "names no host"),
        ("amqp://u:hunter2@a,,b/v", "names no host"),
        ("amqp://u:hunter2@2001:db8::1:5672/v", "IPv6 address without brackets"),
        ("amqp://u:hunter2@2001:db8::1/v", "write [2001:db8::1]:5672"),
        ("amqp://u:hunter2@[2001:db8::1", "[ without ]"),
        ("amqp://u:hunter2@[2001:db8::1]5672", "something other than a port"),
        ("amqp://u:hunter2@[rabbit]", "no IPv6 address"),
        ("amqp://u:hunter2@[fe80::1%25eth0]", "no IPv6 address"),
        ("amqp://u:hunter2@127.1", "is a number and no IPv4 address"),
        ("amqp://u:hunter2@192.0.2.256", "is a number and no IPv4 address"),
        ("amqp://u:hunter2@2130706433", "is a number and no IPv4 address"),
        ("amqp://u:hunter2@0x7f000001", "is a number and no IPv4 address"),
        ("amqp://u:hunter2@0.0.0.0", "write 127.0.0.1"),
        ("amqp://u:hunter2@[::]", "write 127.0.0.1"),
        ("amqp://u:hunter2@rab bit", "a character that no name has"),
        ("amqp://u:hunter2@rab%62it", "a character that no name has"),
        ("amqp://u:hunter2@a;b", "a character that no name has"),
        // Ports.
        ("amqp://u:hunter2@rabbit:", "no number from 1 to 65535"),
        ("amqp://u:hunter2@rabbit:0", "no number from 1 to 65535"),
        ("amqp://u:hunter2@rabbit:65536", "no number from 1 to 65535"),
        ("amqp://u:hunter2@rabbit:+5672", "no number from 1 to 65535"),
        ("amqp://u:hunter2@rabbit:amqp", "no number from 1 to 65535"),
        // User and password.
        ("amqp://u@rabbit", "a user and no password"),
        ("amqp://:hunter2@rabbit", "a password and no user"),
        ("amqp://@rabbit", "a user and no password"),
        ("amqp://u:hunter2%ff@rabbit", "write % itself as %25"),
        ("amqp://u:hunter2%00@rabbit", "contains %00"),
        // Behind the hosts.
        ("amqp://u:hunter2@rabbit/v/", "ends with /"),
        ("amqp://u:hunter2@rabbit/v#w", "write # itself as %23"),
        ("amqp://u:hunter2@rabbit#", "write # itself as %23"),
        ("amqp://u:hunter2@rabbit/v?verify=verify_none", "broker.certificates"),
        ("amqp://u:hunter2@rabbit?heartbeat=often", "has a heartbeat that is no number"),
        ("amqp://u:hunter2@rabbit?auth_mechanism=magic", "auth_mechanism that is not known"),
        // Two addresses, and two meanings.
        ("amqp://u:hunter2@a/v,amqp://u:hunter2@b/v", "separate the hosts of a cluster by commas"),
        ("amqp://u:hunter2@rabbit/user@tenant", "write @ as %40"),
        ("amqp://u:hunter2@rabbit:5672/user@tenant:5672", "write @ as %40"),
        ("amqp://u:hunter2\n@rabbit", "control character"),
    ] {
        let error = parts(text).expect_err(text);
        assert!(error.contains(why), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{text}: {error}");
        assert!(error.contains("write"), "{text}: {error}");
    }
    let long = format!("amqp://rabbit/{}", "v".repeat(256));
    assert!(parts(&long).unwrap_err().contains("256 bytes"));
}

#[test]
fn options_are_obeyed() {
    let uris =
        read("amqp://h/v?heartbeat=30&connection_timeout=5000&frame_max=8192&channel_max=7&auth_mechanism=AMQPLAIN");
    let query = uris.unwrap().remove(0).query;
    let numbers = (query.heartbeat, query.connection_timeout, query.frame_max, query.channel_max);
    assert_eq!(numbers, (Some(30), Some(5_000), Some(8_192), Some(7)));
    assert_eq!(query.auth_mechanism, Some(lapin::uri::SASLMechanism::AMQPlain));
}

/// Any text but for the byte that AMQP's credentials cannot contain.
fn text() -> impl Strategy<Value = String> {
    any::<String>().prop_map(|text| text.replace('\0', ""))
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back(
        user in text().prop_filter("there is one", |user| !user.is_empty()),
        password in text(),
        (written, host) in host(),
        port in 1_u16..,
        vhost in text().prop_filter("it has a name", |name| !name.is_empty() && name.len() <= MAX_VHOST),
    ) {
        let url = format!("amqp://{}:{}@{written}:{port}/{}", encode(&user), encode(&password), encode(&vhost));
        let uris = read(&url);
        prop_assert!(uris.is_ok(), "{url}: {uris:?}");
        let uri = uris.unwrap_or_default().remove(0);
        prop_assert_eq!((uri.authority.userinfo.username, uri.authority.userinfo.password), (user, password));
        prop_assert_eq!((uri.authority.host, uri.authority.port, uri.vhost), (host, port, vhost));
    }

    /// A raw password is the password, or the address is refused; it never becomes a host.
    #[test]
    fn a_raw_password_never_leads_elsewhere(password in "[ -~äß]{1,12}", (written, host) in host(), port in 1_u16..) {
        if let Ok(uris) = read(&format!("amqp://user:{password}@{written}:{port}/%2f")) {
            let authority = &uris[0].authority;
            prop_assert_eq!((uris.len(), &authority.host, authority.port), (1, &host, port));
            if !password.contains('%') {
                prop_assert_eq!(&authority.userinfo.password, &password);
            }
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        drop(read(&text));
        drop(read(&format!("amqp://{text}")));
    }
}
