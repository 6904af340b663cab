//! Properties of parsers, one for each kind of input: damaged bytes are refused or read as before, and a
//! failure is reduced to its smallest damage.
//!
//! `PROPTEST_CASES` is the number of cases of each kind.

use super::inputs::{self, Kind, Read};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use std::{fs, path::Path};

/// One change of a file: its place, as a share of the file in 65,536ths, and what happens there.
#[derive(Clone, Debug)]
enum Edit {
    Flip(u16, u8),
    Set(u16, u8),
    Remove(u16, u8),
    Insert(u16, Vec<u8>),
    Repeat(u16, u8, u8),
    End(u16),
}

/// Bytes that mean something to a parser: digits, brackets, quotes, ends, escapes, lengths.
fn telling() -> impl Strategy<Value = u8> {
    prop_oneof![
        prop::sample::select(b"0123456789-+.eE\"'\\{}[](),:=<>/%@# \n\0\x01\x7f\x80\xff".to_vec()),
        any::<u8>()
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any::<u16>(), 0u8..8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        (any::<u16>(), telling()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (any::<u16>(), 1u8..40).prop_map(|(at, count)| Edit::Remove(at, count)),
        (any::<u16>(), prop::collection::vec(telling(), 1..12))
            .prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<u16>(), 1u8..30, 1u8..30).prop_map(|(at, count, times)| Edit::Repeat(at, count, times)),
        any::<u16>().prop_map(Edit::End),
    ]
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: u16| usize::from(at) * bytes.len() / 65_536;
        let range = |at: u16, count: u8| place(at)..(place(at) + usize::from(count)).min(bytes.len());
        match self {
            Self::Flip(at, bit) => {
                let at = place(*at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Set(at, value) => {
                let at = place(*at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = *value;
                }
            }
            Self::Remove(at, count) => {
                let range = range(*at, *count);
                bytes.drain(range);
            }
            Self::Insert(at, new) => {
                let at = place(*at);
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Repeat(at, count, times) => {
                let (at, part) = (place(*at), bytes[range(*at, *count)].repeat(usize::from(*times)));
                bytes.splice(at..at, part);
            }
            Self::End(at) => bytes.truncate(place(*at)),
        }
    }
}

/// Checks all kinds of input.
#[test]
fn damaged_bytes_are_refused_or_read_as_before() {
    let place = tempfile::tempdir().unwrap();
    for kind in inputs::kinds(place.path()) {
        check(&kind, &place.path().join("parsed"));
    }
}

#[track_caller]
fn check(kind: &Kind, dir: &Path) {
    let default = Config { failure_persistence: None, ..Config::default() };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 48 };
    let mut runner = TestRunner::new(Config { cases, ..default });
    let input =
        (any::<prop::sample::Index>(), prop::collection::vec((any::<prop::sample::Index>(), edit()), 1..4));
    let tested = runner.run(&input, |(seed, edits)| {
        let seed = seed.get(&kind.seeds);
        let mut files = seed.clone();
        for (file, edit) in &edits {
            let at = file.index(files.len());
            edit.apply(&mut files[at].1);
        }
        let _ = fs::remove_dir_all(dir);
        for (name, bytes) in &files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap_or(dir)).expect("folders can be made");
            fs::write(path, bytes).expect("files can be written");
        }
        match (kind.read)(dir, files != *seed) {
            Ok(Read::Refused | Read::Same) => Ok(()),
            Err(why) => Err(TestCaseError::fail(why)),
        }
    });
    tested.unwrap_or_else(|why| panic!("{}: {why}", kind.name));
}

#[test]
fn every_layout_mesh_and_schedule_prints_what_it_is_parsed_from() {
    let word = "[a-z_][a-z0-9_]{0,6}";
    let axes = prop::collection::vec((word, 1usize..5), 0..4);
    let rules = prop::collection::vec((word, word), 0..5);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let tested = runner.run(&(axes, rules), |(axes, rules)| {
        let text: Vec<String> = axes.iter().map(|(name, size)| format!("{name}={size}")).collect();
        if let Ok(mesh) = mesh::Mesh::parse(&text.join(",")) {
            prop_assert_eq!(mesh::Mesh::parse(&mesh.to_string()), Ok(mesh));
        }
        let text: Vec<String> = rules.iter().map(|(dim, axis)| format!("{dim}:{axis}")).collect();
        if let Ok(layout) = mesh::Layout::parse(&text.join(",")) {
            prop_assert_eq!(mesh::Layout::parse(&layout.to_string()), Ok(layout));
        }
        Ok(())
    });
    tested.unwrap_or_else(|why| panic!("{why}"));
}
