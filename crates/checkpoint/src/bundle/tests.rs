//! Tests on valid and damaged bundles, each in its own temporary folder.

use super::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs;
use tempfile::TempDir;

const NETWORKS: [&str; 5] = ["text_encoder", "dinov2", "flux_vae", "visual_tokenizer", "transformer"];

const HEAD: &str = r#"
name = "tiny"
description = "for tests"
licence = "MIT"
[sampling]
guidance_text = 2.5
guidance_subject = 2.5
temperature = 2.0
top_k = 900
top_p = 0.97
seed = 42
pixel_budget = "0.06M"
height_to_width = 1.0
subject_resolution = { "0.06M" = 256 }
"#;

fn manifest(head: &str) -> String {
    let networks = NETWORKS.map(|name| {
        format!(
            "[{name}]\nweights = [\"{name}.safetensors\"]\nconfig = {{ width = 3 }}\n\
             [[{name}.files]]\npath = \"{name}.safetensors\"\nlicence = \"MIT\"\n"
        )
    });
    format!("{head}{}", networks.concat())
}

/// Creates a bundle folder with the given manifest and a small checkpoint for each network.
fn folder(manifest: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(MANIFEST_FILE), manifest).unwrap();
    for name in NETWORKS {
        let header = r#"{"vae.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  "#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&[0; 4]);
        fs::write(folder.path().join(format!("{name}.safetensors")), bytes).unwrap();
    }
    folder
}

fn bundle() -> (TempDir, Bundle) {
    let folder = folder(&manifest(HEAD));
    let bundle = Bundle::open(folder.path()).unwrap();
    (folder, bundle)
}

fn faults(bundle: &Bundle) -> Vec<String> {
    bundle.verify(&mut |_, _| {}).into_iter().filter_map(Result::err).map(|error| error.to_string()).collect()
}

fn with_file_line(line: &str) -> String {
    manifest(HEAD).replacen("path = \"dinov2.safetensors\"", &format!("path = \"dinov2.safetensors\"\n{line}"), 1)
}

#[test]
fn opens_by_folder_by_manifest_and_by_name() {
    let (folder, bundle) = bundle();
    assert_eq!(bundle.weights_folder(), folder.path());
    let by_file = Bundle::open(&folder.path().join(MANIFEST_FILE)).unwrap();
    assert_eq!(by_file.weights_folder(), folder.path());
    let named = folder.path().join("other.toml");
    fs::write(&named, manifest(HEAD)).unwrap();
    assert_eq!(Bundle::open(&named).unwrap().weights_folder(), folder.path().join("other"));
}

#[test]
fn a_misspelt_field_is_refused_in_one_line() {
    let folder = folder(&manifest(&HEAD.replace("top_k", "topk")));
    let error = Bundle::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("topk") && !error.contains('\n'), "{error}");
}

#[test]
fn bad_manifests_are_refused() {
    let cases = [
        (HEAD.replace("temperature = 2.0", "temperature = 0.0"), "temperature"),
        (HEAD.replace("guidance_text = 2.5", "guidance_text = nan"), "guidance"),
        (HEAD.replace("top_k = 900", "top_k = 0"), "top_k"),
        (HEAD.replace("top_p = 0.97", "top_p = 1.5"), "top_p"),
        (HEAD.replace("pixel_budget = \"0.06M\"", "pixel_budget = \"1M\""), "has no subject_resolution"),
        (HEAD.replace("{ \"0.06M\" = 256 }", "{ \"2M\" = 256 }"), "is none of 0.004M, 0.06M"),
        (HEAD.replace("= 256 }", "= 300 }"), "multiple of 16 up to 1024"),
        (HEAD.replace("name = \"tiny\"", "name = \"../tiny\""), "must be letters"),
    ];
    for (head, expected) in cases {
        let folder = folder(&manifest(&head));
        let error = Bundle::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
}

#[test]
fn files_may_not_leave_the_folder_nor_be_listed_twice() {
    let cases = [
        ("path = \"dinov2.safetensors\"", "path = \"../dinov2.safetensors\"", "stay below"),
        ("path = \"dinov2.safetensors\"", "path = \"/dinov2.safetensors\"", "stay below"),
        ("path = \"dinov2.safetensors\"", "path = \"flux_vae.safetensors\"", "not among its files"),
        ("weights = [\"dinov2.safetensors\"]", "weights = []", "names no file"),
        ("path = \"dinov2.safetensors\"", "path = \"dinov2.safetensors\"\nsha256 = \"AB\"", "hexadecimal"),
    ];
    for (from, to, expected) in cases {
        let folder = folder(&manifest(HEAD).replacen(from, to, 1));
        let error = Bundle::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
}

#[test]
fn typed_access_to_config_and_checkpoint() {
    #[derive(Deserialize)]
    struct Config {
        width: usize,
    }
    let prefixed = manifest(HEAD).replacen("[dinov2]\n", "[dinov2]\nprefix = \"vae\"\n", 1);
    let folder = folder(&prefixed);
    let bundle = Bundle::open(folder.path()).unwrap();
    assert_eq!(bundle.config::<Config>(Network::Dinov2).unwrap().width, 3);
    assert_eq!(bundle.checkpoint(Network::Dinov2).unwrap().names().collect::<Vec<_>>(), ["bias"]);
    assert_eq!(bundle.checkpoint(Network::FluxVae).unwrap().names().collect::<Vec<_>>(), ["vae.bias"]);
    let error = bundle.config::<u32>(Network::Dinov2).unwrap_err().to_string();
    assert!(error.contains("architecture of dinov2") && !error.contains('\n'), "{error}");
    assert!(matches!(bundle.checkpoint(Network::Namer), Err(BundleError::NoNetwork { .. })));
    assert!(matches!(bundle.tokenizer(Network::TextEncoder), Err(BundleError::Config { .. })));
}

#[test]
fn a_misspelt_parameter_is_refused_and_one_that_is_not_read_is_not() {
    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Config {
        layer_norm_eps: f32,
        d_ff: usize,
    }
    let read = |table: &str| {
        let folder = folder(&manifest(HEAD).replacen(
            "[dinov2]\nweights = [\"dinov2.safetensors\"]\nconfig = { width = 3 }",
            &format!("[dinov2]\nweights = [\"dinov2.safetensors\"]\nconfig = {table}"),
            1,
        ));
        Bundle::open(folder.path()).unwrap().config::<Config>(Network::Dinov2).map_err(|error| error.to_string())
    };
    let error = read("{ layer_norm_esp = 1e-6 }").unwrap_err();
    assert!(error.contains(r#""layer_norm_esp"; did you mean "layer_norm_eps"?"#), "{error}");
    // Published parameters that are not read, and names that happen to be near one that is given.
    let config = read("{ layer_norm_eps = 0.5, layer_norm_epsi = 1, d_kv = 3, width = 3 }").unwrap();
    assert_eq!((config.layer_norm_eps, config.d_ff), (0.5, 0));
}

#[test]
fn config_may_come_from_a_published_file() {
    let text = manifest(HEAD).replacen(
        "weights = [\"dinov2.safetensors\"]\nconfig = { width = 3 }",
        "weights = [\"dinov2.safetensors\"]\nconfig_file = \"dinov2.json\"",
        1,
    ) + "[[dinov2.files]]\npath = \"dinov2.json\"\nlicence = \"MIT\"\n";
    let folder = folder(&text);
    let bundle = Bundle::open(folder.path()).unwrap();
    let missing = bundle.config::<BTreeMap<String, u32>>(Network::Dinov2).unwrap_err();
    assert!(missing.to_string().contains("models pull tiny"), "{missing}");
    fs::write(folder.path().join("dinov2.json"), r#"{"depth": 7}"#).unwrap();
    assert_eq!(bundle.config::<BTreeMap<String, u32>>(Network::Dinov2).unwrap()["depth"], 7);
}

#[test]
fn a_missing_file_says_what_to_run() {
    let (folder, bundle) = bundle();
    assert_eq!(bundle.presence(Network::FluxVae), Presence::Complete);
    fs::remove_file(folder.path().join("flux_vae.safetensors")).unwrap();
    assert_eq!(bundle.presence(Network::FluxVae), Presence::Absent);
    let expected = "bundle tiny: flux_vae.safetensors is missing; run `echogen models pull tiny`";
    assert_eq!(faults(&bundle), [expected]);
    assert_eq!(bundle.checkpoint(Network::FluxVae).unwrap_err().to_string(), expected);
    assert_eq!(bundle.digests().unwrap_err().to_string(), expected);
}

#[test]
fn wrong_lengths_and_sums_are_found() {
    let folder = folder(&with_file_line("size = 5"));
    let bundle = Bundle::open(folder.path()).unwrap();
    assert!(faults(&bundle)[0].contains("bytes instead of 5"));
    assert!(matches!(bundle.digests(), Err(BundleError::WrongSize { .. })));
    let sum = "0".repeat(64);
    fs::write(folder.path().join(MANIFEST_FILE), with_file_line(&format!("sha256 = \"{sum}\""))).unwrap();
    let bundle = Bundle::open(folder.path()).unwrap();
    assert!(matches!(bundle.digests(), Err(BundleError::WrongDigest { .. })));
    let faults = faults(&bundle);
    assert_eq!(faults.len(), 1);
    assert!(faults[0].contains(&format!("instead of {sum}; run `echogen models pull tiny` to fetch it again")));
}

#[test]
fn a_sum_that_is_not_published_is_recorded_once_and_kept() {
    let (folder, bundle) = bundle();
    let compared = |bundle: &Bundle| -> Vec<_> {
        bundle.verify(&mut |_, _| {}).into_iter().map(|result| result.unwrap().compared).collect()
    };
    assert_eq!(compared(&bundle), [Compared::FirstRecord; 5]);
    assert_eq!(compared(&bundle), [Compared::Recorded; 5]);
    let path = folder.path().join("dinov2.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() = 1;
    fs::write(&path, bytes).unwrap();
    assert!(faults(&bundle)[0].contains("as first recorded"));
    assert!(matches!(bundle.digests(), Err(BundleError::Changed { .. })));
    let download = folder.path().join("download");
    fs::rename(&path, &download).unwrap();
    let file = bundle.manifest().dinov2.file("dinov2.safetensors").unwrap();
    let refused = bundle.install(file, &download, Some(&"0".repeat(64)), &mut |_| {}).unwrap_err();
    assert!(matches!(refused, BundleError::WrongDigest { .. }) && download.exists() && !path.exists());
    let installed = bundle.install(file, &download, None, &mut |_| {}).unwrap();
    assert_eq!((installed.compared, download.exists()), (Compared::FirstRecord, false));
    assert_eq!(faults(&bundle), Vec::<String>::new());
}

#[test]
fn digests_are_the_files_sums_and_skip_absent_extras() {
    let optional = manifest(HEAD)
        + "[namer]\nweights = [\"namer.safetensors\"]\n[[namer.files]]\npath = \"namer.safetensors\"\nlicence = \"x\"\n";
    let folder = folder(&optional);
    let bundle = Bundle::open(folder.path()).unwrap();
    let digests = bundle.digests().unwrap();
    assert_eq!(digests.len(), 5);
    let bytes = fs::read(folder.path().join("dinov2.safetensors")).unwrap();
    assert_eq!(digests["dinov2"], hex::encode(Sha256::digest(&bytes)));
    assert_eq!(faults(&bundle), Vec::<String>::new());
}

#[test]
fn a_network_of_several_files_has_the_sum_of_their_list() {
    let text = manifest(HEAD) + "[[dinov2.files]]\npath = \"extra.json\"\nlicence = \"MIT\"\n";
    let folder = folder(&text);
    fs::write(folder.path().join("extra.json"), "{}").unwrap();
    let first = Bundle::open(folder.path()).unwrap().digests().unwrap()["dinov2"].clone();
    fs::remove_file(folder.path().join(LOCK_FILE)).unwrap();
    fs::write(folder.path().join("extra.json"), "[]").unwrap();
    let second = Bundle::open(folder.path()).unwrap().digests().unwrap()["dinov2"].clone();
    assert_ne!(first, second);
}

#[test]
fn a_damaged_lock_is_an_error_that_says_what_to_do() {
    let (folder, bundle) = bundle();
    assert_eq!(faults(&bundle), Vec::<String>::new());
    let path = folder.path().join(LOCK_FILE);
    let whole = fs::read_to_string(&path).unwrap();
    let file = bundle.manifest().dinov2.file("dinov2.safetensors").unwrap();
    fs::write(bundle.path_of(file), "something else").unwrap();
    for torn in (0..whole.trim_end().len()).map(|length| &whole[..length]).chain(["not [ toml", "\0\0\0\0"]) {
        fs::write(&path, torn).unwrap();
        let found = faults(&bundle);
        assert_eq!(found.len(), 1, "{torn:?}: {found:?}");
        let says = |error: &str| error.contains("bundle.lock.toml is damaged") && error.contains("delete it if");
        assert!(says(&found[0]) && !found[0].contains('\n'), "{torn:?}: {found:?}");
        assert!(says(&bundle.sum(file).unwrap_err().to_string()));
        assert!(says(&bundle.verify_file(file, &mut |_| {}).unwrap_err().to_string()));
        assert!(says(&bundle.digests().unwrap_err().to_string()));
        assert_eq!(fs::read(&path).unwrap(), torn.as_bytes(), "the evidence stays");
    }
    fs::write(&path, whole).unwrap();
    assert!(faults(&bundle)[0].contains("as first recorded"));
}

/// Simulates two pods that share a volume; their processes even have the same process id.
#[test]
fn writers_at_once_tear_nothing_and_lose_nothing() {
    let folder = folder(&manifest(HEAD));
    for round in 0..20 {
        drop(fs::remove_file(folder.path().join(LOCK_FILE)));
        let start = std::sync::Barrier::new(NETWORKS.len());
        std::thread::scope(|scope| {
            for name in NETWORKS {
                let (start, path) = (&start, folder.path());
                scope.spawn(move || {
                    let bundle = Bundle::open(path).unwrap();
                    let network = Network::ALL.into_iter().find(|network| network.name() == name).unwrap();
                    let file = &bundle.network(network).unwrap().files[0];
                    start.wait();
                    bundle.verify_file(file, &mut |_| {}).unwrap();
                });
            }
        });
        let bundle = Bundle::open(folder.path()).unwrap();
        let compared: Vec<_> =
            bundle.verify(&mut |_, _| {}).into_iter().map(|result| result.unwrap().compared).collect();
        assert_eq!(compared, [Compared::Recorded; 5], "round {round}");
    }
    let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.ends_with(".partial")).count(), 0);
}

#[test]
fn of_two_first_records_the_later_must_agree() {
    let (folder, bundle) = bundle();
    let other = Bundle::open(folder.path()).unwrap();
    let file = bundle.manifest().dinov2.file("dinov2.safetensors").unwrap();
    let mut progress = |_| {
        // While this process hashes the file, the file changes and another process records the new version.
        fs::write(bundle.path_of(file), "something else").unwrap();
        other.verify_file(file, &mut |_| {}).unwrap();
    };
    assert!(matches!(bundle.verify_file(file, &mut progress), Err(BundleError::Changed { .. })));
    assert!(other.verify_file(file, &mut |_| {}).is_ok(), "the record that was first stays");
}

#[cfg(unix)]
#[test]
fn the_lock_has_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, bundle) = bundle();
    assert_eq!(faults(&bundle), Vec::<String>::new());
    let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode(LOCK_FILE), mode("dinov2.safetensors"), "another user of the volume can read it");
}

/// Archives, and so images, keep whole seconds.
#[test]
fn a_copy_whose_times_are_cut_to_seconds_is_unchanged() {
    use std::time::{Duration, SystemTime};
    let (folder, bundle) = bundle();
    let path = folder.path().join("dinov2.safetensors");
    let set = |time| fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let seconds = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    set(seconds + Duration::from_nanos(123_456_789));
    assert_eq!(faults(&bundle), Vec::<String>::new());
    let lock = lock::Lock::read(&bundle).unwrap();
    let is_known = || lock.sum("dinov2.safetensors", &fs::metadata(&path).unwrap()).is_some();
    for (time, known) in [
        (seconds + Duration::from_nanos(123_456_789), true),
        (seconds, true),
        (seconds + Duration::from_nanos(123_000_000), false),
        (seconds + Duration::from_secs(1), false),
    ] {
        set(time);
        assert_eq!(is_known(), known, "{time:?}");
    }
}

#[test]
fn no_bundle_is_said_in_words() {
    let error = Bundle::open(Path::new("no/such/bundle.toml")).unwrap_err().to_string();
    assert!(error.starts_with("no bundle at no/such/bundle.toml"), "{error}");
}

#[test]
fn bundles_are_found_by_name_in_the_first_folder_that_has_them() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folders = [first.path().to_owned(), second.path().to_owned(), "no/such/folder".into()];
    fs::create_dir(first.path().join("tiny")).unwrap();
    fs::write(first.path().join("tiny").join(MANIFEST_FILE), manifest(HEAD)).unwrap();
    fs::write(second.path().join("tiny.toml"), "broken").unwrap();
    fs::write(second.path().join("other.toml"), manifest(HEAD)).unwrap();
    fs::create_dir(second.path().join("other")).unwrap();
    assert_eq!(installed(&folders).into_keys().collect::<Vec<_>>(), ["other", "tiny"]);
    assert_eq!(Bundle::find("tiny", &folders).unwrap().weights_folder(), first.path().join("tiny"));
    assert_eq!(Bundle::find("other", &folders).unwrap().weights_folder(), second.path().join("other"));
    let path = second.path().join("other.toml");
    assert_eq!(Bundle::find(path.to_str().unwrap(), &[]).unwrap().name(), "tiny");
    let error = Bundle::find("third", &folders).unwrap_err().to_string();
    assert_eq!(error, "no bundle is called \"third\"; there are other, tiny");
}
