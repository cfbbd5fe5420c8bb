//! The benchmarks' results are shown next to the recorded ones.

use echogen_tests::baseline::{self, Figure};

#[test]
fn a_figure_stands_beside_the_recorded_one() {
    let figures = [Figure { name: "ratio-new-subjects", value: 0.0 }, Figure { name: "of-no-run-yet", value: 0.75 }];
    let lines = baseline::compare("bench-pipeline", &figures).expect("the recorded figures are readable");
    assert!(lines[0].contains("recorded") && lines[0].contains("-100 %"), "{}", lines[0]);
    assert!(lines[1].contains("0.75") && lines[1].ends_with("not recorded"), "{}", lines[1]);
}
