//! `echogen models list`: prints one line per bundle.

use super::{Output, bytes_present, human};
use echogen_checkpoint::bundle::{Bundle, Presence, installed};
use echogen_service::Exit;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// One bundle in the list.
#[derive(Serialize)]
struct Listed {
    name: String,
    path: PathBuf,
    /// "ready", "incomplete", "not pulled", or "broken".
    state: &'static str,
    bytes: u64,
    /// The bundle's description, or what is wrong with it.
    description: String,
}

pub(super) fn list(folders: &[PathBuf], output: &mut Output) -> anyhow::Result<Exit> {
    let bundles = installed(folders);
    if bundles.is_empty() && !output.json {
        let searched = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
        anyhow::bail!("no bundles in {searched}; name the folder of bundles with --bundles");
    }
    for (name, path) in bundles {
        let listed = listed(name, &path);
        let size = human(listed.bytes);
        let text = format!("{:<16} {:<11} {:>10}  {}", listed.name, listed.state, size, listed.description);
        output.answer(&listed, &text)?;
    }
    Ok(Exit::Success)
}

fn listed(name: String, path: &Path) -> Listed {
    let path = path.to_owned();
    match Bundle::open(&path) {
        Ok(bundle) => {
            let bytes = bundle.manifest().networks().map(|(network, _)| bytes_present(&bundle, network)).sum();
            let description = bundle.manifest().description.clone();
            Listed { name, path, state: state(&bundle), bytes, description }
        }
        Err(error) => Listed { name, path, state: "broken", bytes: 0, description: error.to_string() },
    }
}

/// Returns whether the bundle can sample pictures; optional networks are not required.
fn state(bundle: &Bundle) -> &'static str {
    let required = bundle.manifest().networks().filter(|(network, _)| !network.is_optional());
    let presences: Vec<_> = required.map(|(network, _)| bundle.presence(network)).collect();
    match () {
        () if presences.iter().all(|presence| *presence == Presence::Complete) => "ready",
        () if presences.iter().all(|presence| *presence == Presence::Absent) => "not pulled",
        () => "incomplete",
    }
}
