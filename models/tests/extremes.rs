//! Every setting of the library's models with extreme values: a mistake that names the setting, or a legal
//! program, and never a panic.

use mesh::{
    Site,
    dsl::{self, Args},
};
use models::{program, zoo};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Values at the ends of the types of numbers. A normal run has the first four.
const VALUES: [&str; 12] = [
    "0",
    "2147483647",
    "9223372036854775807",
    "nan",
    "1",
    "7",
    "65537",
    "2147483648",
    "4294967296",
    "18446744073709551615",
    "-1",
    "1e308",
];

/// True if the slow suites run.
fn is_slow() -> bool {
    std::env::var_os("MESH_SLOW").is_some_and(|v| v == "1")
}

/// A model of few operations in which every kind of layer occurs.
const SMALL: &str =
    "layers=2 batch=4 input_length=32 target_length=16 vocab=300 d_model=8 d_ff=16 heads=2 d_kv=4";

fn words(settings: &[String]) -> Vec<String> {
    settings.iter().flat_map(|setting| ["--set".to_owned(), setting.clone()]).collect()
}

/// Returns all settings that the program of a preset reads for a task.
fn settings(preset: &str, task: &str) -> Vec<String> {
    let args = Args::parse(words(&[format!("task={task}")])).expect("the arguments are well-formed");
    let config = zoo::named(preset).expect("it is a preset");
    let _ = program::of_task(config, &args, &Site::new("m", 1, 1, ""));
    args.settings().into_iter().map(|setting| setting.key).collect()
}

/// Builds a program with these settings, and returns the errors. A panic is a failure.
#[track_caller]
fn build(preset: &str, settings: &[String]) -> Option<String> {
    let config = zoo::named(preset).expect("it is a preset");
    let built = catch_unwind(AssertUnwindSafe(|| {
        dsl::run(words(settings), |args| program::of_task(config, args, &Site::new("m", 1, 1, "")))
    }));
    let built = built.unwrap_or_else(|_| panic!("{preset} with {} panics", settings.join(" ")));
    built.err().map(|errors| errors.to_string())
}

/// Replaces the small model's value of a setting, or adds one.
fn with(base: &[String], key: &str, value: &str) -> Vec<String> {
    let prefix = format!("{key}=");
    let mut all: Vec<String> = base.iter().filter(|s| !s.starts_with(&prefix)).cloned().collect();
    all.push(format!("{key}={value}"));
    all
}

fn small(task: &str) -> Vec<String> {
    SMALL.split(' ').map(str::to_owned).chain([format!("task={task}")]).collect()
}

#[test]
fn every_setting_with_an_extreme_value_is_a_mistake_or_a_program() {
    let (mut refused, mut built) = (0, 0);
    for (preset, task) in [("switch", "train"), ("t5", "generate"), ("switch", "score")] {
        assert_eq!(build(preset, &small(task)), None);
        let all = settings(preset, task);
        let own = settings(preset, "train");
        for key in all.iter().filter(|key| task == "train" || !own.contains(key)).filter(|key| *key != "task")
        {
            for value in &VALUES[..if is_slow() { VALUES.len() } else { 4 }] {
                match build(preset, &with(&small(task), key, value)) {
                    Some(error) => {
                        assert!(
                            error.contains(key.as_str()) || error.contains("error["),
                            "{key}={value}: {error}"
                        );
                        refused += 1;
                    }
                    None => built += 1,
                }
            }
        }
    }
    assert!(refused > 100 && built > 20, "{refused} refused, {built} built");
}

#[test]
fn several_large_sizes_at_once_are_a_mistake_or_a_program() {
    let sizes =
        ["batch", "input_length", "target_length", "vocab", "d_model", "d_ff", "heads", "d_kv", "experts"];
    for first in 0..sizes.len() {
        for second in first..sizes.len() {
            for value in &["2147483644", "2147483647", "65536"][..if is_slow() { 3 } else { 1 }] {
                let mut all = small("train");
                for at in [first, second, (first + 2 * second + 1) % sizes.len()] {
                    all = with(&all, sizes[at], value);
                }
                build("switch", &all);
            }
        }
    }
}
