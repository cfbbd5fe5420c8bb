//! Addresses of Redis in the forms in which operators and their tools write them.

use proptest::prelude::*;

use super::*;
use crate::address::arbitrary::{encode, host};

/// What is connected to, as text: address, user, password, database.
fn parts(text: &str) -> Result<String, Refusal> {
    let info = read(text)?;
    let settings = info.redis_settings();
    let place = match info.addr() {
        ConnectionAddr::Tcp(host, port) => format!("{host} {port}"),
        ConnectionAddr::TcpTls { host, port, insecure: false, .. } => format!("{host} {port} tls"),
        ConnectionAddr::Unix(path) => path.display().to_string(),
        _ => "insecure".to_owned(),
    };
    Ok(format!("{place}|{:?}|{:?}|{}", settings.username(), settings.password(), settings.db()))
}

#[test]
fn addresses_are_read_as_they_are_meant() {
    for (text, expected) in [
        ("redis://cache", "cache 6379|None|None|0"),
        ("redis://cache/", "cache 6379|None|None|0"),
        ("redis://cache:6380/3", "cache 6380|None|None|3"),
        ("redis://cache:6380/3/", "cache 6380|None|None|3"),
        ("Redis://127.0.0.1:6379/0", "127.0.0.1 6379|None|None|0"),
        ("redis://[2001:db8::1]:6380/1", "2001:db8::1 6380|None|None|1"),
        ("redis://[::1]", "::1 6379|None|None|0"),
        ("rediss://cache.example.org:6380", "cache.example.org 6380 tls|None|None|0"),
        ("valkeys://cache", "cache 6379 tls|None|None|0"),
        ("valkey://cache", "cache 6379|None|None|0"),
        ("rediss://[2001:db8::1]", "2001:db8::1 6379 tls|None|None|0"),
        ("redis://:pw@cache", "cache 6379|None|Some(\"pw\")|0"),
        ("redis://default:pw@cache/2?protocol=resp3", "cache 6379|Some(\"default\")|Some(\"pw\")|2"),
        ("redis://:@cache", "cache 6379|None|None|0"),
        ("redis://default:@cache", "cache 6379|Some(\"default\")|Some(\"\")|0"),
        ("redis://:%40%3A%2F%23%3F%25@cache", "cache 6379|None|Some(\"@:/#?%\")|0"),
        ("redis://:p@ss@cache/1", "cache 6379|None|Some(\"p@ss\")|1"),
        ("redis://:p:ss@cache/1", "cache 6379|None|Some(\"p:ss\")|1"),
        ("redis://:p/ss@cache/1", "cache 6379|None|Some(\"p/ss\")|1"),
        ("redis://:/@cache", "cache 6379|None|Some(\"/\")|0"),
        ("redis://:p#ss@cache:6380/1", "cache 6380|None|Some(\"p#ss\")|1"),
        ("redis://:p?ss@cache/1", "cache 6379|None|Some(\"p?ss\")|1"),
        ("redis://:100%@cache", "cache 6379|None|Some(\"100%\")|0"),
        ("redis://:p@ss/w#r?d%@cache:6379/0", "cache 6379|None|Some(\"p@ss/w#r?d%\")|0"),
        ("redis://:p@ss/word@cache/1", "cache 6379|None|Some(\"p@ss/word\")|1"),
        ("redis://user:1/2@cache", "cache 6379|Some(\"user\")|Some(\"1/2\")|0"),
        ("redis://:pässwörd@cache", "cache 6379|None|Some(\"pässwörd\")|0"),
        ("redis://:a,b@cache", "cache 6379|None|Some(\"a,b\")|0"),
        ("unix:///run/redis.sock?db=2", "/run/redis.sock|None|None|2"),
        ("redis+unix:///run/redis.sock", "/run/redis.sock|None|None|0"),
    ] {
        assert_eq!(parts(text).as_deref(), Ok(expected), "{text}");
    }
    assert_eq!(read("redis://cache?protocol=3").unwrap().redis_settings().protocol(), ProtocolVersion::RESP3);
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_corrected_spelling() {
    for (text, why) in [
        ("", "write it as redis://"),
        ("cache", "write redis://cache"),
        ("localhost:6379", "write redis://localhost:6379"),
        ("[::1]:6379", "write redis://[::1]:6379"),
        ("http://cache:6379", "write redis://cache:6379"),
        ("https://cache:6379/", "write rediss://cache:6379"),
        ("tcp://cache:6379", "write redis://cache:6379"),
        ("amqp://u:hunter2@cache", "write it as redis://"),
        ("redis+sentinel://a,b", "another scheme"),
        ("redis:cache", "does not begin with redis://"),
        ("redis://", "names no host"),
        ("redis://:", "names no host"),
        ("redis:///0", "names no host"),
        ("redis://:hunter2@", "names no host"),
        ("redis://:hunter2@/0", "names no host"),
        ("redis://:hunter2@cache:6379/notanumber", "the number of a database"),
        ("redis://:hunter2@cache/-1", "the number of a database"),
        ("redis://:hunter2@cache/0/1", "the number of a database"),
        ("redis://cache:/", "no number from 1 to 65535"),
        ("redis://:hunter2@cache:0/0", "no number from 1 to 65535"),
        ("redis://:hunter2@cache:redis", "no number from 1 to 65535"),
        ("redis://:hunter2@2001:db8::1", "IPv6 address without brackets"),
        ("redis://:hunter2@a,b/0", "clusters and sentinels are not supported"),
        ("redis://:hunter2@0.0.0.0:6379", "write 127.0.0.1"),
        ("redis://:hunter2@10.1", "is a number and no IPv4 address"),
        ("redis://hunter2@cache", "write redis://:password@host:6379/0"),
        ("rediss://:hunter2@cache#insecure", "cache.certificates"),
        ("redis://cache/0#1", "write # in a password as %23"),
        ("redis://:hunter2@cache?db=1", "an option other than protocol"),
        ("redis://:hunter2@cache?protocol=4", "an option other than protocol"),
        ("redis://:hunter2%ff@cache", "write % itself as %25"),
        ("redis://:hunter2@cache/0?x=a@b", "write @ as %40"),
        ("redis://a:1/0,redis://b:1/0", "a second ://"),
        ("unix:", "names no socket"),
    ] {
        let error = parts(text).expect_err(text);
        assert!(error.contains(why), "{text}: {error}");
        assert!(error.contains("write") && !error.contains("hunter2"), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back(
        user in any::<String>(), password in "\\PC{1,20}", (written, host) in host(), port in 1_u16.., db in 0_u16..,
    ) {
        let user = user.replace('\0', "");
        let url = format!("redis://{}:{}@{written}:{port}/{db}", encode(&user), encode(&password));
        let user = Some(user).filter(|user| !user.is_empty());
        prop_assert_eq!(parts(&url), Ok(format!("{host} {port}|{user:?}|{:?}|{db}", Some(password))));
    }

    /// A raw password is the password, or the address is refused; it never becomes a host.
    #[test]
    fn a_raw_password_never_leads_elsewhere(password in "[ -~äß]{1,12}") {
        if let Ok(info) = read(&format!("redis://:{password}@cache:6379/0")) {
            prop_assert!(matches!(info.addr(), ConnectionAddr::Tcp(host, 6379) if host == "cache"), "{:?}", info.addr());
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        drop(read(&text));
        drop(read(&format!("redis://{text}")));
    }
}
