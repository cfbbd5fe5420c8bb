//! A bundle's manifest; the same bytes are its lock file and the architecture file of its networks.

use std::fs;

use echogen_checkpoint::bundle::{Bundle, LOCK_FILE, MANIFEST_FILE, Network};
use serde::Deserialize;

use crate::message;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Architecture {
    #[serde(default, rename = "width")]
    _width: u32,
}

pub(crate) fn run(data: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    for name in [MANIFEST_FILE, LOCK_FILE, "architecture.json"] {
        if fs::write(folder.path().join(name), data).is_err() {
            return;
        }
    }
    let Some(bundle) = message::check(Bundle::open(folder.path())) else { return };
    for network in Network::ALL {
        message::check(bundle.config::<Architecture>(network));
        message::check(bundle.checkpoint(network));
        message::check(bundle.tokenizer(network));
    }
    for verified in bundle.verify(&mut |_, _| {}) {
        message::check(verified);
    }
    let written = toml::to_string(bundle.manifest()).unwrap_or_default();
    if fs::write(folder.path().join(MANIFEST_FILE), written).is_ok() {
        assert!(Bundle::open(folder.path()).is_ok(), "a manifest that was written is read");
    }
}
