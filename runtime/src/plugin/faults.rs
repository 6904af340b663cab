//! Versions of plugins that are known to compute wrong results, from public reports (`faults.txt`).
//!
//! The version of a plugin is that of the Python package it was installed with: a folder
//! `PACKAGE-VERSION.dist-info` beside one of the folders that contain the library.

use std::{fs, path::Path};

const REPORTS: &str = include_str!("faults.txt");

/// A fault of some versions of a package.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fault {
    package: &'static str,
    first: &'static str,
    last: &'static str,
    /// The wrong result, the remedy, and the address of the report.
    words: [&'static str; 3],
}

/// Returns a sentence for each known fault of the plugin at `path`; none if its version is not known.
pub fn known_faults(path: &Path) -> Vec<String> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let versions = path.ancestors().skip(1).take(4).flat_map(packages);
    versions.flat_map(|(package, version)| of_version(&package, &version)).collect()
}

/// The packages installed in `folder`, with their versions.
fn packages(folder: &Path) -> Vec<(String, String)> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let split = |name: String| {
        let (package, version) = name.strip_suffix(".dist-info")?.rsplit_once('-')?;
        Some((package.to_owned(), version.to_owned()))
    };
    names.filter_map(split).collect()
}

fn of_version(package: &str, version: &str) -> Vec<String> {
    let is_in = |fault: &Fault| {
        fault.package == package
            && compare(version, fault.first).is_ge()
            && compare(version, fault.last).is_le()
    };
    let sentence = |fault: Fault| {
        let [what, remedy, report] = fault.words;
        format!("{package} {version} is reported to compute wrong results: {what} ({report}); {remedy}")
    };
    faults().filter(is_in).map(sentence).collect()
}

fn faults() -> impl Iterator<Item = Fault> {
    REPORTS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).filter_map(|line| {
        let parts: Vec<&str> = line.split(" | ").collect();
        let [package, first, last, what, remedy, report] = parts[..] else { return None };
        Some(Fault { package, first, last, words: [what, remedy, report] })
    })
}

/// Compares the parts that `bound` has, as numbers.
fn compare(version: &str, bound: &str) -> std::cmp::Ordering {
    let number = |part: &str| part.parse::<u64>().unwrap_or(0);
    let parts = bound.split('.').count();
    version.split('.').map(number).take(parts).cmp(bound.split('.').map(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_complete_and_cites_a_report() {
        let rows = REPORTS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        assert_eq!(faults().count(), rows);
        for fault in faults() {
            assert!(compare(fault.first, fault.last).is_le(), "{fault:?}");
            assert!(fault.words[2].starts_with("https://"), "{fault:?}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers_and_found_beside_the_library() {
        let count = |package, version| of_version(package, version).len();
        let of_libtpu = ["0.0.41", "0.0.42", "0.0.42.1", "0.0.43", "0.0.48", "0.0.100"];
        assert_eq!(of_libtpu.map(|version| count("libtpu", version)), [0, 1, 1, 0, 1, 0]);
        let of_cuda = ["0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.2.0"];
        assert_eq!(of_cuda.map(|version| count("jax_cuda13_pjrt", version)), [0, 1, 1, 0, 0]);
        let site = tempfile::tempdir().unwrap();
        fs::create_dir_all(site.path().join("libtpu")).unwrap();
        fs::create_dir_all(site.path().join("libtpu-0.0.48.dist-info")).unwrap();
        let library = site.path().join("libtpu/libtpu.so");
        fs::write(&library, "").unwrap();
        let found = known_faults(&library);
        assert!(found.len() == 1 && found[0].contains("xla/issues/49143"), "{found:?}");
        fs::rename(site.path().join("libtpu-0.0.48.dist-info"), site.path().join("libtpu-0.0.49.dist-info"))
            .unwrap();
        assert_eq!(known_faults(&library), [""; 0]);
    }
}
