//! Tests which crate may use which, from Cargo's own metadata.
//!
//! The table follows the project's layout: data flows one way, stages never depend on each other, a stage uses ports
//! and never adapters, and only the service joins the two.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// For each crate, the crates of this project that it may use outside its tests.
const MAY_USE: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("telemetry", &["protocol"]),
    ("imaging", &[]),
    ("checkpoint", &["protocol"]),
    ("models", &["imaging", "checkpoint"]),
    ("figures", &["imaging"]),
    ("doctor", &["imaging", "checkpoint", "models"]),
    ("world", &[]),
    ("ports", &["protocol"]),
    ("tenants", &["protocol", "ports"]),
    ("gateway", &["protocol", "ports", "worker", "telemetry", "imaging", "tenants"]),
    ("worker", &["protocol", "ports", "telemetry"]),
    ("adapters", &["protocol", "ports", "telemetry"]),
    ("dispatcher", &["protocol", "ports", "worker", "telemetry"]),
    ("segmenter", &["protocol", "ports", "worker", "telemetry", "imaging", "checkpoint", "models"]),
    ("encoder", &["protocol", "ports", "worker", "telemetry", "imaging", "checkpoint", "models"]),
    ("sampler", &["protocol", "ports", "worker", "telemetry", "imaging", "checkpoint", "models"]),
    ("notifier", &["protocol", "ports", "worker", "telemetry"]),
    ("testkit", &["protocol", "ports"]),
    (
        "service",
        &[
            "protocol",
            "telemetry",
            "ports",
            "imaging",
            "checkpoint",
            "models",
            "worker",
            "adapters",
            "dispatcher",
            "segmenter",
            "encoder",
            "sampler",
            "notifier",
            "tenants",
            "gateway",
        ],
    ),
    (
        "cli",
        &[
            "protocol",
            "telemetry",
            "ports",
            "imaging",
            "checkpoint",
            "models",
            "figures",
            "doctor",
            "worker",
            "adapters",
            "dispatcher",
            "segmenter",
            "encoder",
            "sampler",
            "notifier",
            "gateway",
            "service",
            "tenants",
        ],
    ),
    (
        "eval",
        &[
            "protocol",
            "telemetry",
            "imaging",
            "checkpoint",
            "models",
            "figures",
            "segmenter",
            "sampler",
            "service",
            "world",
        ],
    ),
];

/// Packages that a crate must not use at all, and the reason.
const MUST_NOT_USE: &[(&str, &str, &str)] = &[
    ("protocol", "tokio", "it is pure data"),
    ("models", "tokio", "it is synchronous; threads are the worker's concern"),
    ("imaging", "tokio", "it is synchronous; threads are the worker's concern"),
    ("doctor", "tokio", "it is synchronous"),
    ("checkpoint", "tokio", "it is synchronous; threads are the worker's concern"),
    ("models", "candle-transformers", "its networks are written here; only evaluation takes others"),
    ("ports", "tempfile", "it does no input or output"),
];

/// The whole-system tests may use every crate, and no crate uses them.
const TESTS: &str = "tests";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn workspace() -> Metadata {
    // Without dependencies Cargo reads only the members' manifests, and needs neither the network nor the lock file.
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml")).no_deps();
    command.exec().expect("cargo metadata reads this workspace")
}

/// Returns the name without the project's prefix.
fn short(name: &str) -> Option<&str> {
    name.strip_prefix("echogen-")
}

/// Returns what a package uses outside its tests, build scripts included.
fn uses(package: &Package) -> BTreeSet<&str> {
    let shipped = package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
    shipped.map(|dependency| dependency.name.as_str()).collect()
}

/// Returns a package's violations of the tables.
fn faults(name: &str, uses: &BTreeSet<&str>) -> Vec<String> {
    let table: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let Some(allowed) = table.get(name) else {
        return vec![format!("{name} is not in the table of crates; add it with what it may use")];
    };
    let ours = uses.iter().filter_map(|used| short(used));
    let mut faults: Vec<String> = ours
        .filter(|used| !allowed.contains(used))
        .map(|used| format!("{name} must not use {used}; it may use {allowed:?}"))
        .collect();
    let forbidden = MUST_NOT_USE.iter().filter(|(crate_name, used, _)| *crate_name == name && uses.contains(used));
    faults.extend(forbidden.map(|(_, used, why)| format!("{name} must not use {used}: {why}")));
    faults
}

#[test]
fn no_crate_uses_one_that_the_table_does_not_allow() {
    let workspace = workspace();
    let packages = workspace.workspace_packages();
    assert!(packages.len() > 10, "the workspace has been read");
    let mut found = Vec::new();
    for package in packages {
        match short(package.name.as_str()) {
            Some(TESTS) => {}
            Some(name) => found.extend(faults(name, &uses(package))),
            None => found.push(format!("the package {} does not begin with echogen-", package.name)),
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_check_sees_what_it_is_for() {
    let check = |name: &str, uses: &[&str]| faults(name, &uses.iter().copied().collect()).len();
    assert_eq!(check("dispatcher", &["echogen-protocol", "echogen-worker", "serde"]), 0);
    assert_eq!(check("dispatcher", &["echogen-adapters"]), 1);
    assert_eq!(check("sampler", &["echogen-encoder", "echogen-models"]), 1);
    assert_eq!(check("cli", &["echogen-adapters", "echogen-sampler"]), 0);
    assert_eq!(check("cli", &["echogen-testkit"]), 1);
    assert_eq!(check("cli", &["echogen-eval", "echogen-world"]), 2);
    assert_eq!(check("service", &["echogen-figures", "echogen-cli"]), 2);
    assert_eq!(check("eval", &["echogen-adapters", "echogen-service"]), 1);
    assert_eq!(check("models", &["tokio"]), 1);
    assert_eq!(check("imaging", &["echogen-models"]), 1);
    assert_eq!(check("checkpoint", &["echogen-imaging", "tokio", "echogen-protocol"]), 2);
    assert_eq!(check("newcomer", &[]), 1);
}

#[test]
fn every_package_takes_the_lints_and_the_name_of_its_folder() {
    for package in workspace().workspace_packages() {
        let manifest = fs::read_to_string(&package.manifest_path).expect("the manifest is readable");
        let manifest: toml::Table = manifest.parse().expect("the manifest is TOML");
        let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        assert_eq!(inherits, Some(true), "{}: write [lints] workspace = true", package.manifest_path);
        let folder = package.manifest_path.parent().and_then(|folder| folder.file_name());
        assert_eq!(short(package.name.as_str()), folder, "{}: name it after its folder", package.manifest_path);
    }
}

#[test]
fn every_source_file_begins_with_what_it_is_for() {
    let mut bare = Vec::new();
    for folder in ["crates", "tests"] {
        visit(&root().join(folder), &mut |path| {
            let text = fs::read_to_string(path).expect("the source is readable");
            if !text.starts_with("//!") {
                bare.push(path.display().to_string());
            }
        });
    }
    assert!(bare.is_empty(), "begin these with a //! sentence:\n{}", bare.join("\n"));
}

/// Functions that build whatever a document contains.
const UNBOUNDED_READERS: &[&str] = &["serde_json::from_slice", "serde_json::from_str", "serde_json::from_reader"];

/// Files that use them: the bounded reader itself; what keeps nothing of what it reads.
const MAY_READ: &[&str] = &["protocol/src/json.rs", "service/src/job_lines/form.rs"];

/// Crates that read nothing from outside but files of the bundle that is installed, or are not part of an installation.
const READ_NO_MESSAGES: &[&str] = &["doctor", "models", "eval", "testkit", "world"];

#[test]
fn json_from_outside_is_read_by_the_bounded_reader() {
    let mut others = Vec::new();
    visit(&root().join("crates"), &mut |path| {
        let name =
            path.strip_prefix(root().join("crates")).expect("a crate's file").to_string_lossy().replace('\\', "/");
        let (crate_name, rest) = name.split_once('/').unwrap_or_default();
        let is_test = !rest.starts_with("src/") || rest.contains("/tests/") || rest.ends_with("tests.rs");
        if is_test || READ_NO_MESSAGES.contains(&crate_name) || MAY_READ.contains(&name.as_str()) {
            return;
        }
        let text = fs::read_to_string(path).expect("the source is readable");
        let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
        others.extend(
            UNBOUNDED_READERS
                .iter()
                .filter(|reader| shipped.contains(*reader))
                .map(|reader| format!("{name}: {reader}")),
        );
    });
    assert!(others.is_empty(), "use echogen_protocol::json::read instead:\n{}", others.join("\n"));
}

fn visit(folder: &Path, each: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the entry is readable").path();
        if path.is_dir() {
            visit(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&path);
        }
    }
}
