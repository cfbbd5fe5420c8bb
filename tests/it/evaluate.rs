//! `echogen-eval`, from the command line to its scores.

use serde_json::Value;

use crate::program::{Folder, repository};

/// The keys that other programs rely on.
const KEYS: [&str; 8] = [
    "identity_retrieval",
    "identity_retrieval_without_subject_guidance",
    "scene_accuracy",
    "kind_accuracy",
    "psnr_db",
    "box_iou50_rate",
    "naming_accuracy",
    "seconds_per_image",
];

fn share(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("{key}: {report:#}"))
}

/// The judges' accuracy on the pictures that the world draws must be close to 1.
#[test]
fn real_pictures_are_judged_right_and_every_key_is_there() {
    let folder = Folder::new();
    let arguments = ["--pictures", "12", "--scenes", "12", "--json", "--grid", "pictures/grid.png"];
    let run = folder.evaluate(&arguments).expect(0);
    let report: Value = serde_json::from_str(&run.stdout).expect("one line of JSON");
    assert!(KEYS.iter().all(|key| report.get(key).is_some()), "{report:#}");
    assert_eq!((&report["type"], &report["pictures"]), (&"evaluation".into(), &12.into()));
    // There are twelve kinds and twelve scenes: guessing is right in one of twelve cases.
    assert!(share(&report["real"], "scene_accuracy") >= 0.9, "{report:#}");
    assert!(share(&report["real"], "kind_accuracy") >= 0.75, "{report:#}");
    assert!(share(&report["real"], "identity_retrieval_judge") >= 0.75, "{report:#}");
    // The generated pictures: far above what noise reaches by chance, with a margin for rounding on other processors.
    assert!(share(&report, "scene_accuracy") >= 0.75, "{report:#}");
    assert!(share(&report, "kind_accuracy") >= 0.4, "{report:#}");
    assert!(share(&report, "identity_retrieval") >= 0.3, "one in fifty by chance: {report:#}");
    assert!(share(&report, "identity_retrieval_without_subject_guidance") <= 0.2, "{report:#}");
    assert!(share(&report, "psnr_db") >= 20.0, "{report:#}");
    assert!(folder.read("pictures/grid.png").starts_with(b"\x89PNG"));

    let manifest = std::fs::read_to_string(repository("bundles/mini/bundle.toml")).expect("the bundle is there");
    for (network, key) in [("[detector]", "box_iou50_rate"), ("[namer]", "naming_accuracy")] {
        match manifest.contains(network) {
            true => assert!(share(&report, key) >= 0.75, "{report:#}"),
            false => assert!(report[key].is_null(), "{report:#}"),
        }
    }
}

#[test]
fn people_get_a_table_and_mistakes_are_explained() {
    let folder = Folder::new();
    let run = folder.evaluate(&["--pictures", "1", "--scenes", "1"]).expect(0);
    assert!(run.stdout.starts_with("mini: 1 pictures of subjects that training never saw, 1 scenes\n"), "{run:?}");
    assert!(run.stdout.contains("scene right") && run.stdout.contains(">= 85 %"), "{run:?}");
    let run = folder.evaluate(&["--temperature", "0"]).expect(2);
    assert!(run.stderr.contains("--temperature is 0; give a number above 0"), "{run:?}");
    folder.evaluate(&["--pictures", "0"]).expect(2);
}
