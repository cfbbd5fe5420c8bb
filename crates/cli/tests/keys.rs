//! `echogen keys` as a process: the key is on standard output and nowhere else.

use std::process::{Command, Output};

fn echogen(folder: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echogen"));
    command.current_dir(folder).args(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("it prints UTF-8")
}

#[test]
fn a_key_is_printed_once_and_its_hash_is_kept() {
    let folder = tempfile::tempdir().expect("a folder is made");
    let made = echogen(folder.path(), &["keys", "new", "--tenant", "acme", "--file", "tenants.toml"]);
    assert!(made.status.success(), "{made:?}");
    let (key, words) = (text(&made.stdout), text(&made.stderr));
    let key = key.trim_end();
    assert!(key.len() == 55 && key.starts_with("eg_"), "one line with the key: {key}");
    assert!(!words.contains(&key[12..]) && words.contains(&key[3..11]), "{words}");
    let file = folder.path().join("tenants.toml");
    assert!(!std::fs::read_to_string(&file).expect("it is written").contains(&key[12..]));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let listed = text(&echogen(folder.path(), &["keys", "list", "--file", "tenants.toml"]).stdout);
    assert_eq!(listed, format!("{}  acme  jobs  does not expire\n", &key[3..11]));
    let refused = echogen(folder.path(), &["keys", "revoke", key, "--file", "tenants.toml"]);
    assert_eq!(refused.status.code(), Some(2));
    let error = text(&refused.stderr);
    assert!(error.contains("a whole key is no id of a key") && !error.contains(&key[12..]), "{error}");
    let revoked = echogen(folder.path(), &["keys", "revoke", &key[3..11], "--file", "tenants.toml"]);
    assert_eq!(text(&revoked.stdout), format!("revoked {}\n", &key[3..11]));
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "");
}

#[test]
fn without_a_file_the_entry_is_printed_beside_the_key() {
    let folder = tempfile::tempdir().expect("a folder is made");
    let made = echogen(folder.path(), &["keys", "new", "--tenant", "acme", "--scope", "admin", "--expires", "1"]);
    assert!(made.status.success() && text(&made.stdout).lines().count() == 1, "{made:?}");
    let entry = text(&made.stderr);
    assert!(entry.starts_with("[[tenants.acme.keys]]\nid = ") && entry.contains("scopes = [\"admin\"]"), "{entry}");
    assert!(entry.contains("expires = 20"), "{entry}");
    let wrong = echogen(folder.path(), &["keys", "new", "--tenant", "Acme"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
