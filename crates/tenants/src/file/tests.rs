//! Reading, writing and watching a file.

use super::*;
use crate::{Key, Scope, edit};

fn with_key(key: &Key) -> String {
    edit::entry(&"acme".parse().unwrap(), key, &[Scope::Jobs], None)
}

fn knows(handle: &TenantsHandle, key: &Key) -> bool {
    handle.current().authenticate(key.expose(), jiff::Timestamp::UNIX_EPOCH).is_some()
}

fn file() -> (tempfile::TempDir, TenantsFile) {
    let folder = tempfile::tempdir().unwrap();
    let file = TenantsFile::new(folder.path().join("tenants.toml"));
    (folder, file)
}

#[test]
fn a_change_counts_at_once_and_a_mistake_changes_nothing() {
    let (_folder, file) = file();
    let (first, second) = (Key::generate().unwrap(), Key::generate().unwrap());
    fs::write(file.path(), with_key(&first)).unwrap();
    let mut watched = Watched::open(file.clone()).unwrap();
    let handle = watched.handle.clone();
    assert!(knows(&handle, &first));
    watched.check();
    fs::write(file.path(), with_key(&second)).unwrap();
    watched.check();
    assert!(knows(&handle, &second) && !knows(&handle, &first));
    for broken in [Some("[tenants.acme]\nlimts = 1"), Some("["), None] {
        match broken {
            Some(text) => fs::write(file.path(), text).unwrap(),
            None => fs::remove_file(file.path()).unwrap(),
        }
        watched.check();
        let last = watched.last.clone();
        watched.check();
        assert!(knows(&handle, &second) && watched.last == last, "{broken:?}");
    }
    fs::write(file.path(), with_key(&first)).unwrap();
    watched.check();
    assert!(knows(&handle, &first));
}

#[tokio::test]
async fn a_watched_file_is_read_again_until_the_end() {
    let (_folder, file) = file();
    let (first, second) = (Key::generate().unwrap(), Key::generate().unwrap());
    let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let error = file.clone().watch(&tracker, shutdown.clone()).await.unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("tenants.toml"), "{error}");
    fs::write(file.path(), with_key(&first)).unwrap();
    let handle = file.clone().watch(&tracker, shutdown.clone()).await.unwrap();
    assert!(knows(&handle, &first));
    file.replace(&with_key(&second)).unwrap();
    let changed = async {
        while !knows(&handle, &second) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), changed).await.unwrap();
    shutdown.cancel();
    tracker.close();
    tracker.wait().await;
}

#[test]
fn errors_name_the_file_and_the_line() {
    let (_folder, file) = file();
    fs::write(file.path(), "[tenants.acme]\nlimts = 1").unwrap();
    let error = file.load().unwrap_err().to_string();
    assert!(error.contains("tenants.toml, line 2: ") && error.contains("did you mean `limits`?"), "{error}");
    assert!(file.replace("[").is_err());
    assert_eq!(file.text().unwrap(), "[tenants.acme]\nlimts = 1", "what is wrong is not written");
    fs::write(file.path(), [0xff, 0xfe]).unwrap();
    assert!(file.load().unwrap_err().to_string().contains("UTF-8"));
    fs::write(file.path(), "#".repeat(5 << 20)).unwrap();
    assert!(file.load().unwrap_err().to_string().contains("the limit is"));
}

#[cfg(unix)]
#[test]
fn a_new_file_is_for_its_owner_only_and_an_old_one_keeps_its_permissions_and_its_link() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let (folder, file) = file();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    file.replace("# new\n").unwrap();
    assert_eq!(mode(file.path()), 0o600);
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
    let link = TenantsFile::new(folder.path().join("link.toml"));
    symlink(file.path(), link.path()).unwrap();
    link.replace("# newer\n").unwrap();
    assert_eq!((file.text().unwrap().as_str(), mode(file.path())), ("# newer\n", 0o640));
    assert!(fs::symlink_metadata(link.path()).unwrap().is_symlink());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
}
