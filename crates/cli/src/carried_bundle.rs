//! The mini bundle within the program, so that an installed program makes pictures wherever it is started.
//!
//! A bundle in a folder comes first: this one is unpacked, into the user's cache, only where there is none of its name. Once
//! unpacked, it is found there.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use echogen_checkpoint::bundle::installed;
use echogen_protocol::ContentHash;
use echogen_service::{Failure, bundle_folders, config::ServiceConfig};

/// Its name.
const NAME: &str = "mini";

/// Its files.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/mini.rs"));

/// Makes the bundle that the settings name available, if it is the one that the program carries and no folder has it.
pub(crate) fn provide(config: &mut ServiceConfig) -> Result<(), Failure> {
    if config.model.bundle != NAME || config.model.bundles.is_some() {
        return Ok(());
    }
    if installed(&bundle_folders(None)).contains_key(NAME) || Path::new(NAME).exists() {
        return Ok(());
    }
    unpack_for(config)
}

/// Makes it available to a command about bundles, where no other bundle is installed that it would hide.
pub(crate) fn provide_alone(config: &mut ServiceConfig) -> Result<(), Failure> {
    let is_alone = config.model.bundles.is_none() && installed(&bundle_folders(None)).is_empty();
    if is_alone { unpack_for(config) } else { Ok(()) }
}

fn unpack_for(config: &mut ServiceConfig) -> Result<(), Failure> {
    let folder = cache_folder();
    unpack(&folder).map_err(|error| {
        let advice = "set XDG_CACHE_HOME, or model.bundles to a folder with the bundle";
        Failure::usage(format!("cannot unpack the bundle mini into {}: {error}; {advice}", folder.display()))
    })?;
    config.model.bundles = Some(folder);
    Ok(())
}

/// The folder for this content of the bundle, which another version of the program may not have.
fn cache_folder() -> PathBuf {
    let of_user = env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let of_home = || Some(PathBuf::from(env::var_os("HOME").filter(|home| !home.is_empty())?).join(".cache"));
    let cache = of_user.or_else(of_home).unwrap_or_else(env::temp_dir);
    let hashes: String = FILES.iter().map(|(name, bytes)| format!("{name} {}\n", ContentHash::of(bytes))).collect();
    cache.join("echogen").join(format!("bundles-{:.16}", ContentHash::of(hashes.as_bytes()).to_string()))
}

/// Writes the files beside their place and moves them there as a whole, so that a process that is killed, or another one that
/// does the same, leaves no half bundle.
fn unpack(folder: &Path) -> io::Result<()> {
    let place = folder.join(NAME);
    if place.is_dir() {
        return Ok(());
    }
    let unfinished = folder.join(format!("unpacking-{}", std::process::id()));
    fs::create_dir_all(&unfinished)?;
    for (name, bytes) in FILES {
        fs::write(unfinished.join(name), bytes)?;
    }
    match fs::rename(&unfinished, &place) {
        Err(_) if place.is_dir() => fs::remove_dir_all(&unfinished),
        moved => moved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_bundle_is_carried() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/mini");
        let files = fs::read_dir(folder).unwrap().count();
        assert_eq!(FILES.len(), files);
        assert!(FILES.iter().any(|(name, _)| *name == "bundle.toml"));
    }

    #[test]
    fn it_is_unpacked_once_and_as_a_whole() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("bundles");
        unpack(&folder).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing unfinished is left");
        for (name, bytes) in FILES {
            assert!(fs::read(folder.join(NAME).join(name)).unwrap() == *bytes, "{name}");
        }
        fs::write(folder.join(NAME).join("bundle.toml"), "mine").unwrap();
        unpack(&folder).unwrap();
        assert_eq!(fs::read(folder.join(NAME).join("bundle.toml")).unwrap(), b"mine", "what is there stays");
        assert!(installed(&[folder]).contains_key(NAME));
    }
}
