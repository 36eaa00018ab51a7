//! `firstmile demo`: everything on one machine.

use std::time::Duration;

use testkit::{Node, Value};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

#[test]
fn the_demo_runs_and_ends_well() {
    let arguments = ["demo", "--seconds", "3", "--output", "json"];
    let (code, stdout, stderr) = Node::run(FIRSTMILE, &arguments, Duration::from_secs(30)).unwrap();
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(!lines.is_empty(), "it says what it did: {stderr}");
}
