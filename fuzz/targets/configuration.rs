//! The configuration: the bytes are the file, and each of its lines `NAME=VALUE` a variable of the environment.

use std::fs;

use echogen_service::config::Layers;

use crate::message;

pub(crate) fn run(data: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let path = folder.path().join("echogen.toml");
    if fs::write(&path, data).is_err() {
        return;
    }
    load(&Layers { file: Some(path.clone()), ..Layers::default() });
    let text = String::from_utf8_lossy(data);
    let variables = text.split('\n').filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (name.into(), value.into())).collect();
    // Without a file of the working folder.
    if fs::write(&path, "").is_ok() {
        load(&Layers { file: Some(path), variables, ..Layers::default() });
    }
}

fn load(layers: &Layers) {
    match layers.load() {
        Ok(loaded) => loaded.shown().for_each(|shown| drop(shown.to_string())),
        Err(error) => {
            for line in error.messages {
                message::check(Err::<(), _>(line));
            }
        }
    }
}
