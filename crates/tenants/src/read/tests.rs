//! What is read, and what is refused and how.

use proptest::prelude::*;

use super::*;

const HASH: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

fn whole() -> String {
    format!(
        r#"
# All that a tenant can have.
[tenants.acme]
lanes = ["interactive", "bulk"]
limits = {{ requests_per_second = 5, burst = 10, pictures_a_day = 100, jobs_held = 7, previews = 4, streams = 3 }}
prices = {{ picture = 0.01, megapixel = 0.5 }}
pictures_from = ["s3://bucket/prefix/", "s3://other/"]
callback_hosts = ["Hooks.example.org"]

[[tenants.acme.keys]]
id = "Ab3dE6gH"
sha256 = "{HASH}"
scopes = ["jobs", "admin"]
expires = 2027-01-01T00:00:00Z

[[tenants.acme.keys]]
id = "ZZZZZZZZ"
sha256 = "{HASH}"

[tenants.small]
"#
    )
}

#[test]
fn everything_is_read_and_the_rest_has_its_default() {
    let tenants: Tenants = whole().parse().unwrap();
    let acme = tenants.get(&"acme".parse().unwrap()).unwrap();
    assert_eq!(acme.lanes, [Lane::Interactive, Lane::Bulk]);
    let limits =
        Limits { requests_per_second: 5.0, burst: 10, pictures_a_day: 100, jobs_held: 7, previews: 4, streams: 3 };
    assert_eq!((acme.limits, acme.prices), (limits, Prices { picture: 0.01, megapixel: 0.5 }));
    assert_eq!(acme.pictures_from, ["s3://bucket/prefix/", "s3://other/"]);
    assert_eq!(acme.callback_hosts, ["hooks.example.org"]);
    let keys = tenants.keys_of(&"acme".parse().unwrap());
    assert_eq!(keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["Ab3dE6gH", "ZZZZZZZZ"]);
    assert_eq!(keys[0].expires, Some("2027-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!((keys[1].scopes.as_slice(), keys[1].expires), (&[Scope::Jobs][..], None));
    assert_eq!(**tenants.get(&"small".parse().unwrap()).unwrap(), Tenant::default());
    assert_eq!((tenants.iter().count(), tenants.key_count()), (2, 2));
    assert_eq!("".parse::<Tenants>().unwrap().iter().count(), 0);
}

#[track_caller]
fn refused(text: &str, line: usize, why: &str) {
    let error = text.parse::<Tenants>().unwrap_err();
    assert_eq!(error.line, line, "{error}");
    assert!(error.message.contains(why), "{error}");
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_what_to_write() {
    for (text, line, why) in [
        ("[tenant.acme]", 1, "did you mean `tenants`?"),
        ("[tenants.acme]\nlimts = {}", 2, "did you mean `limits`?"),
        ("[tenants.acme]\nlimits = { burts = 1 }", 2, "did you mean `burst`?"),
        ("\n[tenants.acme.limits]\nburst = -1", 3, "invalid value"),
        ("[tenants.acme.limits]\nburst = 0", 1, "limits: requests_per_second and burst: a burst is 0"),
        ("[tenants.acme]\nlimits = { requests_per_second = inf }", 2, "at most 10000"),
        ("[tenants.acme]\nlimits = { previews = 17 }", 2, "previews is 17; write at most 16"),
        ("[tenants.acme]\nprices = { picture = -0.1 }", 2, "picture is -0.1; write a number from 0"),
        ("[tenants.acme]\nprices = { megapixel = nan }", 2, "megapixel is NaN"),
        ("[tenants.acme]\nlanes = [\"interactiv\"]", 2, "did you mean `interactive`?"),
        ("[tenants.acme]\nlanes = []", 2, "leave it out for all lanes"),
        ("[tenants.Acme]\n", 1, "is no tenant's name"),
        ("[tenants.a]\n\n[tenants.\"a.b\"]", 3, "is no tenant's name"),
        ("[tenants.a]\npictures_from = [\n\"s3://b/c/\",\n\"s3://b/c\"]", 4, "with a / at the end"),
        ("[tenants.a]\npictures_from = [\"s3://\"]", 2, "s3://BUCKET/FOLDER/"),
        ("[tenants.a]\npictures_from = [\"s3://b/../c/\"]", 2, "s3://BUCKET/FOLDER/"),
        ("[tenants.a]\npictures_from = [\"https://b/c/\"]", 2, "s3://BUCKET/FOLDER/"),
        ("[tenants.a]\ncallback_hosts = [\"https://hooks.example.org/\"]", 2, "write its name alone"),
        ("[tenants.a]\ncallback_hosts = [\"hooks.example.org:8443\"]", 2, "write its name alone"),
        ("[tenants.a]\nname = 1 = 2", 2, ""),
        ("x = 1", 1, "unknown field `x`"),
        ("[[tenants.a.keys]]\nid = \"Ab3dE6gH\"", 1, "missing field `sha256`"),
    ] {
        refused(text, line, why);
    }
    refused(&"#".repeat(5 << 20), 1, "the limit is 4194304");
}

#[test]
fn keys_are_checked() {
    let key = |id: &str, rest: &str| format!("[[tenants.a.keys]]\nid = \"{id}\"\nsha256 = \"{HASH}\"\n{rest}\n");
    refused(&key("short", ""), 2, "\"short\" is no id of a key");
    refused(&key("Ab3dE6gH", "scopes = []"), 4, "write [\"jobs\"]");
    refused(&key("Ab3dE6gH", "scopes = [\"job\"]"), 4, "did you mean `jobs`?");
    refused(&key("Ab3dE6gH", "expires = 2027-01-01T00:00:00"), 4, "write it like 2027-01-01T00:00:00Z");
    refused(&key("Ab3dE6gH", "expires = 2027-01-01"), 4, "write it like");
    refused(&key("Ab3dE6gH", "expires = \"2027-01-01T00:00:00Z\""), 4, "");
    refused(&key("Ab3dE6gH", "expire = 1"), 4, "did you mean `expires`?");
    let twice = key("Ab3dE6gH", "") + &key("Ab3dE6gH", "").replace("tenants.a.", "tenants.b.");
    refused(&twice, 6, "there are two keys with the id Ab3dE6gH");
    refused("[[tenants.a.keys]]\nid = \"Ab3dE6gH\"\nsha256 = \"12\"", 3, "64 hexadecimal digits");
}

#[test]
fn a_key_at_a_wrong_place_is_not_shown() {
    let key = crate::Key::generate().unwrap();
    let key = key.expose();
    for text in [
        format!("[[tenants.a.keys]]\nid = \"Ab3dE6gH\"\nsha256 = \"{key}\""),
        format!("[[tenants.a.keys]]\nid = \"{key}\"\nsha256 = \"{HASH}\""),
        format!("[[tenants.a.keys]]\nid = \"Ab3dE6gH\"\nsha256 = \"{HASH}\"\nscopes = \"{key}\""),
        format!("[[tenants.a.keys]]\nid = \"Ab3dE6gH\"\nsha256 = \"{HASH}\"\nscopes = [\"{key}\"]"),
        format!("[[tenants.a.keys]]\nid = \"Ab3dE6gH\"\nsha256 = \"{HASH}\"\nexpires = \"{key}\""),
        format!("[tenants.a]\n{key} = 1"),
        format!("[tenants.a]\nlimits = \"{key}\""),
    ] {
        let error = text.parse::<Tenants>().unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains(&key[12..]), "{shown}");
        }
    }
    assert!(!format!("{:?}", whole().parse::<Tenants>().unwrap()).contains(HASH));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(\\[tenants\\.[a-z]{0,3}\\]|[a-z_]{1,8} = |\\[\\[|\"|\\{|\\n|.){0,40}") {
        if let Err(error) = text.parse::<Tenants>() {
            prop_assert!(error.line >= 1 && !error.to_string().contains('\n'));
        }
    }
}
