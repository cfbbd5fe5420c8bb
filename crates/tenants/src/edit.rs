//! Changes of a tenants' file that keep its comments and its order: a key's entry is appended to the text or cut out of it.
//! After each change the text is read again, and it must differ from before by this key only.

use std::fmt::Write;

use echogen_ports::Fault;
use jiff::Timestamp;

use crate::{Key, KeyEntry, KeyId, Scope, TenantName, Tenants};

/// The entry of a key as it is in a file.
pub fn entry(tenant: &TenantName, key: &Key, scopes: &[Scope], expires: Option<Timestamp>) -> String {
    let scopes: Vec<String> = scopes.iter().map(|scope| format!("\"{scope}\"")).collect();
    let mut text = format!(
        "[[tenants.{tenant}.keys]]\nid = \"{}\"\nsha256 = \"{}\"\nscopes = [{}]\n",
        key.id(),
        key.sha256(),
        scopes.join(", ")
    );
    if let Some(expires) = expires {
        // Writing into a string cannot fail.
        writeln!(text, "expires = {expires}").ok();
    }
    text
}

/// Appends an [`entry`] to a text.
pub fn with_entry(text: &str, entry: &str) -> Result<String, Fault> {
    let before = parse(text)?;
    let gap = match text {
        "" => "",
        _ if text.ends_with("\n\n") => "",
        _ if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    let changed = format!("{text}{gap}{entry}");
    let by_hand =
        || Fault::refused("the tenant's keys are not written as [[tenants.NAME.keys]]; add the entry by hand");
    let after = changed.parse::<Tenants>().map_err(|error| by_hand().because(error))?;
    if after.key_count() != before.key_count() + 1 {
        return Err(by_hand());
    }
    Ok(changed)
}

/// Cuts the entry of a key out of a text. Comments below the entry stay.
pub fn without_key(text: &str, id: &KeyId) -> Result<String, Fault> {
    let before = parse(text)?;
    let others = |tenants: &Tenants| -> Vec<(TenantName, KeyEntry)> {
        let keys = tenants.iter().flat_map(|(name, _)| tenants.keys_of(name).into_iter().map(move |key| (name, key)));
        keys.filter(|(_, key)| key.id != *id).map(|(name, key)| (name.clone(), key.clone())).collect()
    };
    if others(&before).len() == before.key_count() {
        return Err(Fault::not_found(format!("there is no key with the id {id}")));
    }
    let by_hand = || Fault::refused(format!("the key {id} is not in an entry of its own; remove it by hand"));
    let changed = cut(text, id).ok_or_else(by_hand)?;
    let after = changed.parse::<Tenants>().map_err(|error| by_hand().because(error))?;
    // A tenant that was named by this key only is gone with it.
    let is_same = after.iter().all(|(name, tenant)| before.get(name) == Some(tenant));
    if after.key_count() + 1 != before.key_count() || others(&after) != others(&before) || !is_same {
        return Err(by_hand());
    }
    Ok(changed)
}

fn parse(text: &str) -> Result<Tenants, Fault> {
    text.parse().map_err(|error| Fault::from_error(echogen_ports::FaultKind::Refused, error))
}

/// The text without the table of the key, from its header to its last setting.
fn cut(text: &str, id: &KeyId) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let is_header = |line: &str| line.trim_start().starts_with('[');
    let sets_the_id = |line: &str| {
        let (name, value) = line.split_once('=').unwrap_or_default();
        let value = value.trim_start();
        name.trim() == "id" && [format!("\"{id}\""), format!("'{id}'")].iter().any(|id| value.starts_with(id))
    };
    let at = lines.iter().position(|line| sets_the_id(line))?;
    let first = lines[..at].iter().rposition(|line| is_header(line))?;
    let end = lines[at..].iter().position(|line| is_header(line)).map_or(lines.len(), |next| at + next);
    let is_setting = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let last = first + lines[first..end].iter().rposition(is_setting)?;
    // The empty line above goes too: another one is below.
    let first = first - usize::from(first > 0 && lines[first - 1].trim().is_empty());
    Some(lines[..first].concat() + &lines[last + 1..].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::generate().unwrap()
    }

    fn block(tenant: &str, key: &Key) -> String {
        entry(&tenant.parse().unwrap(), key, &[Scope::Jobs], None)
    }

    #[test]
    fn an_entry_is_what_the_reader_reads() {
        let (key, expires) = (key(), "2027-01-01T00:00:00Z".parse().unwrap());
        let text = entry(&"acme".parse().unwrap(), &key, &Scope::ALL, Some(expires));
        let tenants: Tenants = text.parse().unwrap();
        let found = tenants.authenticate(key.expose(), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((found.key.scopes.as_slice(), found.key.expires), (&Scope::ALL[..], Some(expires)));
        assert!(!text.contains(key.expose()));
    }

    #[test]
    fn adding_and_removing_keeps_everything_else() {
        let [first, second, third] = [key(), key(), key()];
        let text = format!(
            "# Ours.\n[tenants.acme] # first\nlanes = [\"bulk\"]\n\n# Of the build machine.\n{}# Until spring.\n\n[tenants.b]\n",
            block("acme", &first)
        );
        let two = with_entry(&text, &block("b", &second)).unwrap();
        let three = with_entry(&two, &block("acme", &third)).unwrap();
        assert_eq!(three, format!("{text}\n{}\n{}", block("b", &second), block("acme", &third)));
        assert_eq!(three.parse::<Tenants>().unwrap().key_count(), 3);
        assert_eq!(without_key(&three, third.id()).unwrap(), two);
        assert_eq!(without_key(&two, second.id()).unwrap(), text);
        let none = without_key(&text, first.id()).unwrap();
        assert_eq!(
            none,
            "# Ours.\n[tenants.acme] # first\nlanes = [\"bulk\"]\n\n# Of the build machine.\n# Until spring.\n\n[tenants.b]\n"
        );
        let error = without_key(&none, first.id()).unwrap_err();
        assert!(error.to_string().contains("there is no key with the id"), "{error}");
    }

    #[test]
    fn a_text_of_any_end_takes_an_entry() {
        for text in ["", "# Ours.", "# Ours.\n", "# Ours.\n\n", "[tenants.a]\r\n"] {
            let key = key();
            let changed = with_entry(text, &block("acme", &key)).unwrap();
            assert!(changed.starts_with(text));
            assert_eq!(without_key(&changed, key.id()).unwrap().trim(), text.trim());
        }
    }

    #[test]
    fn what_cannot_be_changed_safely_is_left_to_a_person() {
        let [first, second] = [key(), key()];
        let inline =
            format!("[tenants.acme]\nkeys = [{{ id = \"{}\", sha256 = \"{}\" }}]\n", first.id(), first.sha256());
        assert!(with_entry(&inline, &block("acme", &second)).unwrap_err().to_string().contains("by hand"));
        assert!(without_key(&inline, first.id()).unwrap_err().to_string().contains("by hand"));
        assert!(with_entry("[", &block("acme", &second)).is_err() && without_key("[", first.id()).is_err());
        let same = block("acme", &first);
        assert!(with_entry(&same, &same).is_err(), "the id is taken");
    }
}
