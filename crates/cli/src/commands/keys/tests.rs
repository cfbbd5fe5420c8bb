//! Keys on a file, from the making to the end.

use super::*;

fn now() -> Timestamp {
    "2026-11-30T12:00:00.5Z".parse().unwrap()
}

fn new_key(file: &Path, tenant: &str, expires: Option<u32>) {
    let arguments = NewArguments {
        tenant: tenant.parse().unwrap(),
        scopes: vec![Scope::Admin, Scope::Jobs, Scope::Admin],
        expires,
        file: Some(file.to_owned()),
    };
    assert_eq!(new(&arguments, now(), false).unwrap(), Exit::Success);
}

fn words_of(file: &Path, now: Timestamp) -> Vec<String> {
    let tenants = TenantsFile::new(file).load().unwrap();
    let keys = tenants.iter().flat_map(|(name, _)| tenants.keys_of(name).into_iter().map(move |key| (name, key)));
    keys.map(|(name, key)| in_words(name, key, now).split_once("  ").unwrap().1.to_owned()).collect()
}

#[test]
fn keys_are_added_listed_and_revoked_and_the_rest_of_the_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let file = &folder.path().join("tenants.toml");
    std::fs::write(file, "# Ours.\n[tenants.b]\n").unwrap();
    new_key(file, "acme", Some(90));
    new_key(file, "b", None);
    let both = ["acme  jobs,admin  expires on 2027-02-28", "b  jobs,admin  does not expire"];
    assert_eq!(words_of(file, now()), both);
    assert_eq!(words_of(file, "2027-03-01T00:00:00Z".parse().unwrap())[0], "acme  jobs,admin  expired on 2027-02-28");
    let tenants = TenantsFile::new(file).load().unwrap();
    let ids = ["acme", "b"].map(|name| tenants.keys_of(&name.parse().unwrap())[0].id.to_string());
    for tenant in [None, Some("b".parse().unwrap())] {
        let arguments = ListArguments { file: file.clone(), tenant };
        assert_eq!(list(&arguments, now(), true).unwrap(), Exit::Success);
    }
    let arguments = RevokeArguments { ids: ids.to_vec(), file: file.clone() };
    assert_eq!(revoke(&arguments, false).unwrap(), Exit::Success);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "# Ours.\n[tenants.b]\n");
    let error = revoke(&arguments, false).unwrap_err().to_string();
    assert!(error.contains("tenants.toml, there is no key with the id"), "{error}");
}

#[test]
fn of_several_ids_all_are_revoked_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = &folder.path().join("tenants.toml");
    new_key(file, "acme", None);
    let id = TenantsFile::new(file).load().unwrap().keys_of(&"acme".parse().unwrap())[0].id.to_string();
    let arguments = RevokeArguments { ids: vec![id, "AAAAAAAA".to_owned()], file: file.clone() };
    assert!(revoke(&arguments, false).is_err());
    assert_eq!(words_of(file, now()).len(), 1);
}

#[test]
fn a_file_that_cannot_be_read_is_not_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tenants.toml");
    std::fs::write(&file, "[tenants.acme]\nlimts = {}\n").unwrap();
    let error = add(&file, "").unwrap_err().to_string();
    assert!(error.contains("tenants.toml, line 2: ") && error.contains("did you mean `limits`?"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "[tenants.acme]\nlimts = {}\n");
    let arguments = ListArguments { file: folder.path().join("nowhere.toml"), tenant: None };
    assert!(list(&arguments, now(), false).unwrap_err().to_string().contains("nowhere.toml"));
}
