//! Tests of checkpoints on disk: round trips, damage, and interrupted writers.

use super::{
    Checkpoint, Facts, Keep, Kind, TOKENIZER, TOKENIZER_FILE, Writer, folder, keep,
    manifest::{COMMIT, MANIFEST, commit_of},
    objects,
};
use crate::{
    HostTensor, Result,
    shard::{self, Region},
};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

fn dims(sizes: &[(&str, usize)]) -> Vec<(String, usize)> {
    sizes.iter().map(|(name, size)| (name.to_string(), *size)).collect()
}

fn floats(sizes: &[usize]) -> HostTensor {
    let n: usize = sizes.iter().product();
    HostTensor::f32(sizes, &(0..n).map(|i| i as f32).collect::<Vec<_>>())
}

fn region(start: &[usize], sizes: &[usize]) -> Region {
    Region { start: start.to_vec(), sizes: sizes.to_vec() }
}

fn cut(value: &HostTensor, start: &[usize], sizes: &[usize]) -> HostTensor {
    let element = value.dtype.byte_size().unwrap();
    let bytes = shard::cut(&value.bytes, &value.dims, element, &region(start, sizes));
    HostTensor { dtype: value.dtype, dims: sizes.to_vec(), bytes }
}

/// Writes a checkpoint of a parameter in four boxes, a slot of another type, and the step.
fn write(dir: &Path) -> HostTensor {
    let mut writer = Writer::create(dir).unwrap();
    let w = floats(&[4, 6]);
    let w_dims = dims(&[("rows", 4), ("columns", 6)]);
    // In no particular order.
    for start in [[2, 0], [0, 3], [0, 0], [2, 3]] {
        writer.part("a/w", Kind::Param, &w_dims, &start, cut(&w, &start, &[2, 3])).unwrap();
    }
    let small = HostTensor { dtype: pjrt::ElementType::Bf16, dims: vec![3], bytes: vec![1, 2, 3, 4, 5, 6] };
    writer.tensor("a/w/m", Kind::Slot, &dims(&[("rows", 3)]), small).unwrap();
    writer.tensor("step", Kind::Counter, &[], HostTensor::s32(&[], &[7])).unwrap();
    writer.finish(Facts::from([("seed".to_owned(), "4".to_owned())]), 7).unwrap();
    w
}

fn written() -> (TempDir, PathBuf, HostTensor) {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("step_00000007");
    let w = write(&dir);
    (place, dir, w)
}

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_tokenizer_of_a_checkpoint_is_checked() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ck");
    let write = |tokenizer: Option<&[u8]>| {
        let mut writer = Writer::replace(&path).unwrap();
        writer.tensor("x", Kind::Param, &[], HostTensor::f32(&[], &[1.0])).unwrap();
        tokenizer.into_iter().for_each(|t| writer.tokenizer(t).unwrap());
        writer.finish(Facts::from([(TOKENIZER.to_owned(), "bytes".to_owned())]), 1).unwrap();
    };
    write(None);
    let none = Checkpoint::open(&path).unwrap();
    assert_eq!((none.tokenizer().unwrap(), none.facts()[TOKENIZER].as_str()), (None, "bytes"));
    write(Some(b"pieces"));
    let one = Checkpoint::open(&path).unwrap();
    assert_eq!(one.tokenizer().unwrap().as_deref(), Some(&b"pieces"[..]));
    assert_eq!(one.facts()[TOKENIZER], format!("blake3:{}", blake3::hash(b"pieces").to_hex()));
    fs::write(path.join(&one.facts()[TOKENIZER_FILE]), b"others").unwrap();
    assert!(one.tokenizer().unwrap_err().to_string().contains("was altered: the digests differ"));
}

#[test]
fn tensors_come_back_whole_and_in_any_part() {
    let (place, dir, w) = written();
    let c = Checkpoint::open(&dir).unwrap();
    assert_eq!((c.step(), c.facts()["seed"].as_str()), (7, "4"));
    let names: Vec<(&str, Kind)> = c.tensors().iter().map(|t| (t.name.as_str(), t.kind)).collect();
    assert_eq!(names, [("a/w", Kind::Param), ("a/w/m", Kind::Slot), ("step", Kind::Counter)]);
    assert_eq!(c.read("a/w").unwrap(), w);
    assert_eq!(c.read("step").unwrap(), HostTensor::s32(&[], &[7]));
    assert_eq!(c.read("a/w/m").unwrap().bytes, [1, 2, 3, 4, 5, 6]);
    for r in 0..4 {
        for (rows, k) in (1..=4 - r).flat_map(|rows| (0..6).map(move |k| (rows, k))) {
            for columns in 1..=6 - k {
                let part = c.read_box("a/w", &[r, k], &[rows, columns]).unwrap();
                assert_eq!(part, cut(&w, &[r, k], &[rows, columns]), "{rows}x{columns} at {r},{k}");
            }
        }
    }
    for (start, size) in [(vec![0, 5], vec![1, 2]), (vec![0], vec![4]), (vec![usize::MAX, 0], vec![2, 1])] {
        let error = c.read_box("a/w", &start, &size).unwrap_err().to_string();
        assert!(error.contains("has no region"), "{error}");
    }
    assert!(c.read("b").unwrap_err().to_string().contains("no tensor `b`"));
    assert_eq!(c.verify().unwrap(), c.bytes());
    assert_eq!(entries(place.path()), ["step_00000007"]);
}

#[test]
fn the_files_are_safetensors() {
    let (_place, dir, w) = written();
    let bytes = fs::read(dir.join("00000.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let names: BTreeSet<String> = file.names().into_iter().map(|n| n.to_string()).collect();
    let expected =
        ["a/w/m", "a/w[0:2,0:3]", "a/w[0:2,3:6]", "a/w[2:4,0:3]", "a/w[2:4,3:6]", "step"].map(str::to_owned);
    assert_eq!(names, expected.into());
    let part = file.tensor("a/w[2:4,3:6]").unwrap();
    assert_eq!((part.shape(), part.data()), (&[2, 3][..], &cut(&w, &[2, 3], &[2, 3]).bytes[..]));
}

#[test]
fn large_tensors_are_read_in_blocks_and_small_ones_share_files() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("c");
    let mut writer = Writer::create(&dir).unwrap();
    // Larger than a block, and in the last case larger than a file.
    let big = floats(&[40, 300, 256]);
    writer.tensor("big", Kind::Param, &dims(&[("a", 40), ("b", 300), ("c", 256)]), big.clone()).unwrap();
    let half = floats(&[1 << 24]);
    writer.tensor("half", Kind::Param, &dims(&[("a", 1 << 24)]), half.clone()).unwrap();
    writer.tensor("other", Kind::Param, &dims(&[("a", 1 << 24)]), half.clone()).unwrap();
    writer.tensor("x", Kind::Param, &[], floats(&[])).unwrap();
    writer.finish(Facts::new(), 0).unwrap();
    let files = ["00000.safetensors", "00001.safetensors", "00002.safetensors"];
    assert_eq!(entries(&dir), [&files[..], &["COMMIT", "manifest.json"]].concat());
    let c = Checkpoint::open(&dir).unwrap();
    assert_eq!(c.read("other").unwrap(), half);
    for (start, size) in
        [([0, 0, 0], [40, 300, 128]), ([3, 7, 11], [35, 250, 240]), ([39, 299, 255], [1, 1, 1])]
    {
        assert_eq!(c.read_box("big", &start, &size).unwrap(), cut(&big, &start, &size));
    }
}

/// Opens the checkpoint and reads all tensors.
fn restore(dir: &Path) -> Result<()> {
    let c = Checkpoint::open(dir)?;
    c.tensors().iter().try_for_each(|t| c.read(&t.name).map(drop))
}

/// Opens the checkpoint and reads all tensors in regions that match no box.
fn restore_in_parts(dir: &Path) -> Result<()> {
    let c = Checkpoint::open(dir)?;
    for entry in c.tensors().iter().filter(|t| !t.dims.is_empty()) {
        let mut size = entry.sizes();
        size[0] = 1;
        for i in 0..entry.dims[0].1 {
            let mut start = vec![0; size.len()];
            start[0] = i;
            c.read_box(&entry.name, &start, &size)?;
        }
    }
    Ok(())
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let (_place, dir, _) = written();
    let data_of_step = {
        let c = Checkpoint::open(&dir).unwrap();
        let part = &c.tensor("step").unwrap().boxes[0];
        part.offset..part.offset + part.bytes
    };
    for name in entries(&dir) {
        let path = dir.join(&name);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&path, &bad).unwrap();
            let found = Checkpoint::open(&dir).and_then(|c| c.verify());
            let error = found.expect_err(&format!("byte {at} of {name}")).to_string();
            assert!(error.contains("help:"), "{error}");
            assert!(restore(&dir).is_err(), "byte {at} of {name}");
            let of_step = name.ends_with("safetensors") && data_of_step.contains(&(at as u64));
            assert!(of_step || restore_in_parts(&dir).is_err(), "byte {at} of {name}");
        }
        fs::write(&path, &good).unwrap();
    }
    Checkpoint::open(&dir).unwrap().verify().unwrap();
}

#[test]
fn damage_is_reported_with_its_location() {
    let damage = |harm: &dyn Fn(&Path), parts: &[&str]| {
        let (_place, dir, _) = written();
        harm(&dir);
        let error = restore(&dir).unwrap_err().to_string();
        assert!(error.contains("step_00000007"), "{error}");
        assert!(parts.iter().all(|p| error.contains(p)), "{error}");
    };
    damage(&|d| fs::remove_file(d.join(COMMIT)).unwrap(), &["no COMMIT", "an unfinished one"]);
    damage(&|d| fs::remove_file(d.join(MANIFEST)).unwrap(), &["manifest.json"]);
    damage(&|d| fs::remove_file(d.join("00000.safetensors")).unwrap(), &["00000.safetensors` is missing"]);
    damage(&|d| fs::remove_dir_all(d).unwrap(), &["does not exist"]);
    let cut_off = |d: &Path| {
        let path = d.join("00000.safetensors");
        let len = fs::metadata(&path).unwrap().len();
        fs::File::options().write(true).open(path).unwrap().set_len(len - 1).unwrap();
    };
    damage(&cut_off, &["00000.safetensors", "bytes, the manifest has"]);
    let flip = |d: &Path| {
        let path = d.join("00000.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    };
    damage(&flip, &["tensor `step`", "was altered", "meshc checkpoint verify"]);
}

/// An inconsistent manifest is refused even if its digest is right.
#[test]
fn inconsistent_manifests_are_refused() {
    let lie = |change: &dyn Fn(&mut serde_json::Value), part: &str| {
        let (_place, dir, _) = written();
        let mut json: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.join(MANIFEST)).unwrap()).unwrap();
        change(&mut json);
        let text = serde_json::to_vec(&json).unwrap();
        fs::write(dir.join(MANIFEST), &text).unwrap();
        fs::write(dir.join(COMMIT), commit_of(&text)).unwrap();
        let error = restore(&dir).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    lie(&|m| m["version"] = 2.into(), "version is 2");
    lie(&|m| m["format"] = "x".into(), "format is `x`");
    lie(&|m| m["files"][0]["name"] = "../x".into(), "../x");
    lie(&|m| m["files"][0]["header_bytes"] = u64::MAX.into(), "an invalid name or size");
    lie(&|m| m["tensors"][0]["boxes"][0]["offset"] = 0.into(), "overlap or leave a gap");
    lie(&|m| m["tensors"][0]["boxes"][0]["bytes"] = 1.into(), "has 1 bytes");
    lie(&|m| m["tensors"][0]["boxes"][0]["start"][0] = 3.into(), "outside of it");
    lie(&|m| m["tensors"][0]["boxes"][0]["start"][0] = u64::MAX.into(), "outside of it");
    lie(&|m| m["tensors"][0]["boxes"][0]["start"][0] = 1.into(), "overlap");
    lie(&|m| m["tensors"][0]["dims"][0][1] = 5.into(), "instead of 120");
    lie(&|m| m["tensors"][0]["dims"][0][1] = u64::MAX.into(), "too large");
    lie(&|m| m["tensors"][0]["dtype"] = "f64".into(), "f64");
    lie(&|m| m["tensors"][1]["name"] = "step".into(), "`step` is listed twice");
    lie(&|m| m["tensors"][1]["name"] = "a".repeat(70_000).into(), "a…` has 70000 bytes, more than 1024");
    lie(&|m| m["files"][0]["name"] = "a".repeat(70_000).into(), "a…` has 70000 bytes, more than 1024");
    lie(&|m| m["tensors"][0]["dims"][0][0] = "é".repeat(513).into(), "é…` has 1026 bytes, more than 1024");
    lie(&|m| m["tensors"][1]["boxes"][0]["file"] = "y".into(), "in an unlisted file");
    lie(&|m| m["tensors"].as_array_mut().unwrap().truncate(2), "end at");
}

/// Without optimization, opening takes a tenth of the limit. If it compared all pairs of boxes, it would take
/// a minute.
#[test]
fn a_tensor_of_many_boxes_is_opened_and_read_in_linear_time() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("c");
    let mut writer = Writer::create(&dir).unwrap();
    let (rows, columns) = (200, 100);
    let all = dims(&[("a", rows), ("b", columns)]);
    for row in 0..rows {
        for column in 0..columns {
            writer.part("x", Kind::Param, &all, &[row, column], floats(&[1, 1])).unwrap();
        }
    }
    writer.finish(Facts::new(), 0).unwrap();
    let begin = std::time::Instant::now();
    let c = Checkpoint::open(&dir).unwrap();
    assert_eq!(c.tensors()[0].boxes.len(), rows * columns);
    assert_eq!(c.read("x").unwrap().bytes, vec![0; rows * columns * 4]);
    assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
}

#[test]
fn unfinished_writers_leave_nothing() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("deep/c");
    let mut writer = Writer::create(&dir).unwrap();
    writer.tensor("a", Kind::Param, &dims(&[("x", 4)]), floats(&[4])).unwrap();
    drop(writer);
    assert!(entries(&place.path().join("deep")).is_empty());

    // Incomplete: an element is missing.
    let mut writer = Writer::create(&dir).unwrap();
    writer.part("a", Kind::Param, &dims(&[("x", 4)]), &[1], floats(&[3])).unwrap();
    let error = writer.finish(Facts::new(), 0).unwrap_err().to_string();
    assert!(error.contains("tensor `a`") && error.contains("12 bytes instead of 16"), "{error}");
    assert!(entries(&place.path().join("deep")).is_empty());

    // Files of another origin are not removed.
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("notes"), "n").unwrap();
    for error in [Writer::create(&dir).unwrap_err(), Writer::replace(&dir).unwrap_err()] {
        assert!(error.to_string().contains("already exists"), "{error}");
    }
    assert_eq!(entries(&dir), ["notes"]);
}

#[test]
fn a_disk_that_refuses_is_reported_and_left_clean() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Writer::create(&file.join("c")).unwrap_err().to_string();
    assert!(error.contains("file"), "{error}");
    // The folder of the checkpoint disappears, like an unmounted disk.
    let dir = place.path().join("gone/c");
    let mut writer = Writer::create(&dir).unwrap();
    writer.tensor("a", Kind::Param, &[], floats(&[])).unwrap();
    fs::remove_dir_all(place.path().join("gone")).unwrap();
    let error = writer.finish(Facts::new(), 0).unwrap_err().to_string();
    assert!(error.contains("creating") && error.contains("gone"), "{error}");
    // Permissions do not stop root.
    let closed = place.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(closed.join("probe"), "").is_err() {
        let error = Writer::create(&closed.join("c")).unwrap_err().to_string();
        assert!(error.contains("closed") && error.contains("denied"), "{error}");
        assert!(entries(&closed).is_empty());
    }
    assert_eq!(entries(place.path()), ["closed", "file"]);
}

#[test]
fn writers_refuse_what_cannot_be_read_back() {
    let place = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(&place.path().join("c")).unwrap();
    let x = dims(&[("x", 4)]);
    writer.part("a", Kind::Param, &x, &[0], floats(&[2])).unwrap();
    let other = HostTensor::s32(&[2], &[1, 2]);
    for error in [
        writer.part("a", Kind::Param, &x, &[2], other).unwrap_err(),
        writer.part("a", Kind::Slot, &x, &[2], floats(&[2])).unwrap_err(),
        writer.part("a", Kind::Param, &dims(&[("y", 4)]), &[2], floats(&[2])).unwrap_err(),
    ] {
        assert!(error.to_string().contains("of another type in the next"), "{error}");
    }
    let short = HostTensor { bytes: vec![0; 4], ..floats(&[2]) };
    assert!(writer.part("b", Kind::Param, &x, &[0], short).unwrap_err().to_string().contains("has 4 bytes"));
    let f64s = HostTensor { dtype: pjrt::ElementType::F64, dims: vec![], bytes: vec![0; 8] };
    assert!(writer.tensor("b", Kind::Param, &[], f64s).unwrap_err().to_string().contains("elements of f64"));
}

#[test]
fn a_folder_of_checkpoints_is_listed_and_pruned() {
    let place = tempfile::tempdir().unwrap();
    let at = |step| folder::path(place.path(), step);
    assert!(folder::list(&place.path().join("nowhere")).unwrap().is_empty());
    for step in [5, 10, 15, 20] {
        write(&at(step));
    }
    fs::create_dir(place.path().join(".unfinished-step_00000025.abc")).unwrap();
    fs::create_dir(place.path().join("step_7")).unwrap();
    fs::write(at(15).join(COMMIT), "x").unwrap();
    let list = |expected: &[(u64, bool)]| {
        let found = folder::list(place.path()).unwrap();
        let found: Vec<(u64, bool)> = found.iter().map(|f| (f.step, f.checkpoint.is_ok())).collect();
        assert_eq!(found, expected);
    };
    list(&[(5, true), (10, true), (15, false), (20, true)]);
    assert_eq!(keep::prune(place.path(), &Keep::newest(2), true).unwrap(), [at(5)]);
    list(&[(5, true), (10, true), (15, false), (20, true)]);
    assert_eq!(keep::prune(place.path(), &Keep::newest(2), false).unwrap(), [at(5)]);
    list(&[(10, true), (15, false), (20, true)]);
    folder::sweep(place.path()).unwrap();
    assert_eq!(entries(place.path()), ["step_00000010", "step_00000015", "step_00000020", "step_7"]);
    // A damaged checkpoint is replaced by a valid one.
    let mut writer = Writer::replace(&at(15)).unwrap();
    writer.tensor("a", Kind::Param, &[], floats(&[])).unwrap();
    writer.finish(Facts::new(), 15).unwrap();
    list(&[(10, true), (15, true), (20, true)]);
    assert_eq!(entries(place.path()).len(), 4);
}

/// Object stores: `memory:` and `file:`.
fn stores(place: &TempDir) -> [PathBuf; 2] {
    let unique = place.path().file_name().unwrap().to_string_lossy().into_owned();
    [format!("memory:///{unique}/run"), format!("file://{}/run", place.path().display())].map(PathBuf::from)
}

#[test]
fn an_object_store_holds_what_a_folder_does() {
    let place = tempfile::tempdir().unwrap();
    for url in stores(&place) {
        assert!(folder::list(&url).unwrap().is_empty(), "{}", url.display());
        for step in [5, 10] {
            write(&folder::path(&url, step));
        }
        let dir = folder::path(&url, 10);
        assert!(Writer::create(&dir).unwrap_err().to_string().contains("already exists"));
        let c = Checkpoint::open(&dir).unwrap();
        assert_eq!((c.step(), c.dir()), (7, &*dir));
        assert_eq!(c.read("a/w").unwrap(), floats(&[4, 6]));
        assert_eq!(c.read_box("a/w", &[1, 2], &[2, 3]).unwrap(), cut(&floats(&[4, 6]), &[1, 2], &[2, 3]));
        assert_eq!(c.verify().unwrap(), c.bytes());
        restore(&dir).and_then(|()| restore_in_parts(&dir)).unwrap();

        // A prefix without a marker is not a checkpoint; a writer that is dropped leaves nothing behind.
        let objects = objects::Objects::open(&dir).unwrap();
        let marker = objects.read(COMMIT).unwrap();
        objects.remove(COMMIT).unwrap();
        assert!(Checkpoint::open(&dir).unwrap_err().to_string().contains("no COMMIT"));
        let steps = |url: &Path| folder::list(url).unwrap().iter().map(|f| f.step).collect::<Vec<_>>();
        assert_eq!(steps(&url), [5]);
        objects.put(COMMIT, vec![marker.into()]).unwrap();
        assert_eq!(steps(&url), [5, 10]);
        let unfinished = folder::path(&url, 15);
        let mut writer = Writer::create(&unfinished).unwrap();
        writer.tensor("a", Kind::Param, &dims(&[("x", 3)]), floats(&[3])).unwrap();
        drop(writer);
        assert_eq!(objects::Objects::open(&unfinished).unwrap().names().unwrap(), (vec![], vec![]));

        // Sweeping removes unfinished prefixes only; pruning removes the older checkpoints.
        objects::Objects::open(&unfinished).unwrap().put("00000-x.safetensors", vec![]).unwrap();
        folder::sweep(&url).unwrap();
        assert_eq!(objects::Objects::open(&unfinished).unwrap().names().unwrap().0.len(), 0);
        write(&unfinished);
        assert_eq!(keep::prune(&url, &Keep::newest(2), true).unwrap(), [folder::path(&url, 5)]);
        assert_eq!(steps(&url), [5, 10, 15]);
        assert_eq!(keep::prune(&url, &Keep::newest(2), false).unwrap(), [folder::path(&url, 5)]);
        assert_eq!(steps(&url), [10, 15]);
        assert!(objects::Objects::open(&folder::path(&url, 5)).unwrap().names().unwrap().0.is_empty());
    }
    // A store on disk is an ordinary folder.
    Checkpoint::open(&place.path().join("run/step_00000010")).and_then(|c| c.verify()).unwrap();
}

#[test]
fn in_an_object_store_damage_is_found_and_replaced() {
    let place = tempfile::tempdir().unwrap();
    for url in stores(&place) {
        let dir = folder::path(&url, 1);
        write(&dir);
        let objects = objects::Objects::open(&dir).unwrap();
        let (names, _) = objects.names().unwrap();
        for name in &names {
            let good = objects.read(name).unwrap();
            for at in (0..good.len()).step_by(7) {
                let mut bad = good.clone();
                bad[at] ^= 1 << (at % 8);
                objects.put(name, vec![bad.into()]).unwrap();
                assert!(Checkpoint::open(&dir).and_then(|c| c.verify()).is_err(), "byte {at} of {name}");
                assert!(restore(&dir).is_err(), "byte {at} of {name}");
            }
            objects.remove(name).unwrap();
            assert!(restore(&dir).is_err(), "without {name}");
            objects.put(name, vec![good.into()]).unwrap();
        }
        restore(&dir).unwrap();
        let mut writer = Writer::replace(&dir).unwrap();
        writer.tensor("b", Kind::Param, &[], floats(&[])).unwrap();
        // The old checkpoint stays until the new one is finished.
        restore(&dir).unwrap();
        writer.finish(Facts::new(), 9).unwrap();
        assert_eq!(Checkpoint::open(&dir).unwrap().step(), 9);
        restore(&dir).unwrap();
        let (left, _) = objects.names().unwrap();
        assert_eq!(left.len(), 3, "what was there before is gone: {left:?}");
    }
}

/// The folder in which the process that will be killed saves.
const PLACE: &str = "MESH_TEST_SAVE";

/// Not a separate test: the process that the next test kills.
#[test]
fn saves_until_it_is_killed() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let mut step = folder::list(&place).unwrap().last().map_or(0, |f| f.step);
    folder::sweep(&place).unwrap();
    loop {
        step += 1;
        let mut writer = Writer::replace(&folder::path(&place, step)).unwrap();
        for name in ["a", "b", "c"] {
            let value = HostTensor::s32(&[1000], &[step as i32; 1000]);
            writer.tensor(name, Kind::Param, &dims(&[("x", 1000)]), value).unwrap();
        }
        writer.finish(Facts::new(), step).unwrap();
        keep::prune(&place, &Keep::newest(2), false).unwrap();
        println!("saved {step}");
    }
}

#[test]
fn kills_at_any_moment_lose_nothing() {
    use std::{io::BufRead, process, time::Duration};
    let place = tempfile::tempdir().unwrap();
    let (mut newest, mut unfinished) = (0, 0);
    for kill in 0..200u64 {
        let mut child = process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "checkpoint::tests::saves_until_it_is_killed", "--nocapture"])
            .env(PLACE, place.path())
            .stdout(process::Stdio::piped())
            .stderr(process::Stdio::null())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(|l| l.ok());
        let mut saved = lines.filter_map(|l| l.strip_prefix("saved ").and_then(|n| n.parse::<u64>().ok()));
        // At least one checkpoint is saved; then the process is killed some microseconds later, in whatever
        // state it is.
        let mut said = saved.next().unwrap();
        std::thread::sleep(Duration::from_micros(kill * 7919 % 4000));
        child.kill().unwrap();
        child.wait().unwrap();
        said = saved.last().unwrap_or(said);
        let found = folder::list(place.path()).unwrap();
        for f in &found {
            let checkpoint = f.checkpoint.as_ref().unwrap_or_else(|e| panic!("kill {kill}: {e}"));
            checkpoint.verify().unwrap_or_else(|e| panic!("kill {kill}: {e}"));
            let value = checkpoint.read("b").unwrap().to_f64().unwrap();
            assert!(checkpoint.step() == f.step && value.iter().all(|x| *x == f.step as f64));
        }
        let last = found.last().map_or(0, |f| f.step);
        assert!(last >= said && said > newest, "kill {kill}: {last} is the newest, {said} was saved");
        assert!(found.len() >= 2 || last == 1, "kill {kill}: the one before is there too");
        unfinished += u32::from(entries(place.path()).iter().any(|n| n.starts_with(folder::UNFINISHED)));
        newest = last;
    }
    assert!(unfinished > 20, "the kills met {unfinished} unfinished checkpoints");
}
