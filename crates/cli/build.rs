//! Lists the files of the mini bundle, which the program carries for machines on which none is installed.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bundle = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../bundles/mini").canonicalize()?;
    println!("cargo:rerun-if-changed={}", bundle.display());
    let mut files =
        fs::read_dir(&bundle)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    files.sort();
    let mut list = String::from("&[\n");
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        list.push_str(&format!("    ({name:?}, include_bytes!({:?})),\n", path.display().to_string()));
    }
    list.push_str("]\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("mini.rs"), list)?;
    Ok(())
}
