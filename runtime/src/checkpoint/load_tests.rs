//! Tests of plans without devices: matches, tables and all mistakes.

use super::{
    load::{Param, Planner, rounded},
    manifest::{Entry, Kind},
    mapping::Mapping,
    padding::UsedParts,
};

/// Parses `name: dtype[dim=size,…]`.
fn parsed(text: &str) -> (String, String, Vec<(String, usize)>) {
    let (name, rest) = text.split_once(": ").unwrap();
    let (dtype, dims) = rest.trim_end_matches(']').split_once('[').unwrap();
    let dim = |dim: &str| dim.split_once('=').map(|(name, size)| (name.to_owned(), size.parse().unwrap()));
    (name.to_owned(), dtype.to_owned(), dims.split(',').filter_map(dim).collect())
}

fn mapping(words: &str) -> Mapping {
    let mut mapping = Mapping::default();
    let mut words = words.split_whitespace();
    while let Some(option) = words.next() {
        let value = words.next().unwrap();
        match option {
            "--map" => mapping.rules.push(value.parse().unwrap()),
            "--allow-missing" => mapping.allow_missing.push(value.parse().unwrap()),
            "--initial" => mapping.initial.push(value.parse().unwrap()),
            "--ignore" => mapping.ignore.push(value.parse().unwrap()),
            _ => panic!("{option}"),
        }
    }
    mapping
}

/// Returns the rows of the table, or the mistakes.
fn planned(program: &[&str], checkpoint: &[&str], options: &str) -> Result<Vec<String>, Vec<String>> {
    let wanted: Vec<Param> = program
        .iter()
        .map(|text| {
            let (name, dtype, dims) = parsed(text);
            Param { name, dtype, dims, used: UsedParts::default() }
        })
        .collect();
    let entries: Vec<Entry> = checkpoint
        .iter()
        .map(|text| {
            let (name, dtype, dims) = parsed(text);
            Entry { name, kind: Kind::Param, dtype, dims, boxes: Vec::new() }
        })
        .collect();
    let mapping = mapping(options);
    let plan =
        Planner::new(&mapping, &entries.iter().collect::<Vec<_>>(), UsedParts::default()).plan(&wanted)?;
    let lines = plan.table.to_string();
    Ok(lines.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

#[track_caller]
fn fits(program: &[&str], checkpoint: &[&str], options: &str, rows: &[&str]) {
    let planned = planned(program, checkpoint, options);
    assert_eq!(planned.unwrap_or_else(|mistakes| panic!("{mistakes:?}")), rows);
}

#[track_caller]
fn refuses(program: &[&str], checkpoint: &[&str], options: &str, mistakes: &[&str]) {
    assert_eq!(planned(program, checkpoint, options).unwrap_err(), mistakes);
}

const A: &str = "a/wi: f32[layers=4,d=2]";
const B: &str = "b/wi: f32[layers=4,d=2]";
const TWICE: &str = "a/wi: f32[layers=8,d=2]";

#[test]
fn names_map_to_names() {
    fits(&[A, B], &[A, B], "", &["taken (same name) 2 tensors, 16 elements"]);
    fits(&[A], &[B], "--map a/*=b/*", &["taken a/*=b/* 1 tensor, 8 elements"]);
    let both = ["taken a/*=b/* 1 tensor, 8 elements", "taken c/*=b/* 1 tensor, 8 elements"];
    fits(&[A, "c/wi: f32[layers=4,d=2]"], &[B], "--map a/*=b/* --map c/*=b/*", &both);
}

#[test]
fn what_may_be_missing_or_left_is_in_the_table() {
    let rows = [
        "taken (same name) 1 tensor, 8 elements",
        "initialized b/* 1 tensor, 8 elements",
        "left c 1 tensor, 3 elements",
    ];
    fits(&[A, B], &[A, "c: f32[d=3]"], "--allow-missing b/* --ignore c", &rows);
    // A tensor of another shape that is ignored counts as missing.
    let rows = ["initialized a/* 1 tensor, 8 elements", "left a/wi 1 tensor, 16 elements"];
    fits(&[A], &[TWICE], "--allow-missing a/* --ignore a/wi", &rows);
    refuses(&[A, B], &[A], "", &["missing: `b/wi`, f32[layers=4, d=2]"]);
    refuses(&[A], &[A, B], "", &["left over: `b/wi`, f32[layers=4, d=2]"]);
}

#[test]
fn parts_of_a_dim_map_to_parts() {
    let halves = "--map a/*[layers=0::2]=a/* --map a/*[layers=1::2]=b/*";
    let rows = [
        "taken a/*[layers=0::2]=a/* 1 tensor, 8 elements",
        "taken a/*[layers=1::2]=b/* 1 tensor, 8 elements",
    ];
    fits(&[TWICE], &[A, B], halves, &rows);
    let rows = [
        "taken a/*[layers=0:2]=a/*[layers=::2] 1 tensor, 4 elements",
        "initialized a/* 1 tensor, 12 elements",
    ];
    fits(&[TWICE], &[A], "--map a/*[layers=0:2]=a/*[layers=::2] --allow-missing a/*", &rows);
    refuses(
        &[TWICE],
        &[A],
        "--map a/*[layers=0:4]=a/*",
        &["`a/wi`, f32[layers=8, d=2]: the rules take only 8 of its 16 elements"],
    );
}

#[test]
fn a_rule_applies_to_something_and_takes_nothing_twice() {
    refuses(&[A], &[A], "--map x/*=a/*", &["`--map x/*=a/*` applies to no parameter of the program"]);
    refuses(
        &[A],
        &[B],
        "--map a/*=x/* --allow-missing a/*",
        &["`--map a/*=x/*` finds no tensor of the checkpoint", "left over: `b/wi`, f32[layers=4, d=2]"],
    );
    refuses(
        &[A],
        &[B],
        "--map a/*=b/* --map a/wi=b/wi",
        &["`a/wi` is taken twice, by `--map a/*=b/*` and `--map a/wi=b/wi`"],
    );
    refuses(
        &[TWICE],
        &[A, B],
        "--map a/*[layers=0:4]=a/* --map a/*[layers=3:7]=b/* --allow-missing a/*",
        &["`a/wi` is taken twice, by `--map a/*[layers=0:4]=a/*` and `--map a/*[layers=3:7]=b/*`"],
    );
    refuses(
        &[A, "a/wo: f32[d=2]"],
        &[B],
        "--map a/*=b/*",
        &["missing: `b/wo`, for `a/wo` by `--map a/*=b/*`"],
    );
}

#[test]
fn errors_name_both_shapes() {
    refuses(&[A], &[TWICE], "", &["`a/wi` is f32[layers=8, d=2], the program expects f32[layers=4, d=2]"]);
    refuses(
        &[A],
        &["b/wi: f32[layers=4,e=2]"],
        "--map a/*=b/*",
        &[
            "`a/wi` from `b/wi` is f32[layers=4, e=2], the program expects f32[layers=4, d=2] by `--map a/*=b/*`",
        ],
    );
    let by = |rule: &str, why: &str| {
        let shapes = "`a/wi` from `b/wi` is f32[layers=4, d=2], the program expects f32[layers=8, d=2]";
        refuses(&[TWICE], &[B], &format!("--map {rule}"), &[&format!("{shapes} by `--map {rule}` ({why})")]);
    };
    by("a/*[layers=0:2]=b/*", "2 indices of `layers` from 4");
    by("a/*[layers=8]=b/*[layers=0]", "`layers=8:9` selects no part of `layers=8`");
    by("a/*[rows=0]=b/*[rows=0]", "there is no dim `rows`");
    by("a/*[layers=0]=b/*[d=0]", "both sides must select along the same dim");
}

#[test]
fn a_program_keeps_initial_values_although_the_checkpoint_has_the_names() {
    let rows = ["taken teacher/*=* 1 tensor, 8 elements", "initialized a/* 1 tensor, 8 elements"];
    let teacher = "teacher/a/wi: f32[layers=4,d=2]";
    fits(&[A, teacher], &[A], "--map teacher/*=* --initial a/*", &rows);
    refuses(&[A], &[A], "--initial a/*", &["left over: `a/wi`, f32[layers=4, d=2]"]);
}

#[test]
fn wide_elements_are_rounded_and_narrow_ones_are_not_widened() {
    let narrow = "a/wi: bf16[layers=4,d=2]";
    fits(&[narrow], &[A], "", &["taken (same name) 1 tensor, 8 elements"]);
    let error = "`a/wi` is bf16[layers=4, d=2], the program expects f32[layers=4, d=2]";
    refuses(&[A], &[narrow], "", &[error]);
    let bits = |value: f32| rounded(value);
    assert_eq!((bits(1.0), bits(-2.5), bits(0.0)), (0x3f80, 0xc020, 0));
    // Halfway: to the even one.
    assert_eq!((bits(f32::from_bits(0x3f80_8000)), bits(f32::from_bits(0x3f81_8000))), (0x3f80, 0x3f82));
    assert_eq!((bits(f32::MAX), bits(f32::INFINITY)), (0x7f80, 0x7f80));
    assert!(f32::from_bits(u32::from(bits(f32::NAN)) << 16).is_nan());
}
