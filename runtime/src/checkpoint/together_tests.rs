//! Tests of checkpoints that several processes write together: jobs of several members in one process, over
//! real connections on loopback.

use super::{
    Checkpoint, Facts, Kind, Processes, Together, Writer, folder,
    objects::{Objects, is_url},
    prove_shared,
};
use crate::{Error, HostTensor, Result};
use job::{Coordinator, Job, Limits};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};
use tempfile::TempDir;

const RANKS: u32 = 3;

/// Runs `act` on all ranks at once, each on a thread, and returns what they return, by rank.
fn run<T: Send>(act: impl Fn(&Job) -> T + Sync) -> Vec<T> {
    run_some(act).into_iter().map(|result| result.expect("no rank panics")).collect()
}

/// As [`run`]. A rank that panics loses its connection without a word, as a killed process does, and returns
/// `None`.
fn run_some<T: Send>(act: impl Fn(&Job) -> T + Sync) -> Vec<Option<T>> {
    let limits = Limits { dead_after: Duration::from_secs(5), ..Limits::default() };
    let any = "127.0.0.1:0".parse().unwrap();
    let mut coordinator = Some(Coordinator::serve(any, RANKS as usize, "token", limits.clone()).unwrap());
    let address = coordinator.as_ref().unwrap().address().to_string();
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..RANKS)
            .map(|rank| {
                let (address, act, limits) = (&address, &act, limits.clone());
                let coordinator = if rank == 0 { coordinator.take() } else { None };
                scope.spawn(move || {
                    let job =
                        Job::join(address, (rank, RANKS), "token", limits, coordinator, Box::new(|_| ()));
                    let job = job.unwrap();
                    let result = catch_unwind(AssertUnwindSafe(|| act(&job))).ok();
                    result.inspect(|_| job.leave(None))
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn processes(job: &Job) -> Processes<'_> {
    Processes { job, limit: Duration::from_secs(20) }
}

/// The value of the element `i` of a tensor at a step.
fn value(step: u64, i: usize) -> f32 {
    step as f32 * 100.0 + i as f32
}

fn part(writer: &mut Writer, name: &str, step: u64, (start, len): (usize, usize)) -> Result<()> {
    let dims = [("x".to_owned(), 3 * RANKS as usize)];
    let values: Vec<f32> = (start..start + len).map(|i| value(step, i)).collect();
    writer.part(name, Kind::Param, &dims, &[start], HostTensor::f32(&[len], &values))
}

/// Adds the boxes of one rank: its part of `split`, and of the tensors that all ranks hold one.
fn own_boxes(writer: &mut Writer, rank: u32, step: u64) -> Result<()> {
    part(writer, "split", step, (3 * rank as usize, 3))?;
    part(writer, &format!("whole-{rank}"), step, (0, 3 * RANKS as usize))
}

fn write(job: &Job, dir: &Path, step: u64, fill: impl FnOnce(&mut Writer) -> Result<()>) -> Result<()> {
    let together = Together { processes: processes(job), attempt: format!("step {step}") };
    let facts = Facts::from([("rank".to_owned(), job.rank().to_string())]);
    together.write(dir, (step, facts), fill)
}

/// Checks that a folder has exactly the checkpoints of these steps, that they are valid, and nothing else.
#[track_caller]
fn check(run: &Path, steps: &[u64]) {
    assert_eq!(folder::steps(run).unwrap(), steps);
    for step in steps {
        let c = Checkpoint::open(&folder::path(run, *step)).unwrap_or_else(|e| panic!("{e}"));
        c.verify().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((c.step(), c.facts()["rank"].as_str(), c.tensors().len()), (*step, "0", 4));
        let expected: Vec<f64> = (0..9).map(|i| f64::from(value(*step, i))).collect();
        for tensor in c.tensors() {
            assert_eq!(c.read(&tensor.name).unwrap().to_f64().unwrap(), expected, "{}", tensor.name);
        }
        let boxes = &c.tensor("split").unwrap().boxes;
        assert_eq!(boxes.iter().map(|b| b.start[0]).collect::<Vec<_>>(), [0, 3, 6]);
        assert_eq!(names(&folder::path(run, *step)).len(), 5, "three files, the manifest and the marker");
    }
    let names = names(run);
    assert!(names.iter().all(|name| name.starts_with("step_")) && names.len() == steps.len(), "{names:?}");
}

fn names(dir: &Path) -> Vec<String> {
    if is_url(dir) {
        let (objects, prefixes) = Objects::open(dir).unwrap().names().unwrap();
        return [objects, prefixes].concat();
    }
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A folder, and prefixes of two object stores.
fn places(place: &TempDir) -> [PathBuf; 3] {
    let unique = place.path().file_name().unwrap().to_string_lossy().into_owned();
    let url = |text: String| PathBuf::from(text);
    [
        place.path().join("folder"),
        url(format!("memory:///{unique}/run")),
        url(format!("file://{}/store", place.path().display())),
    ]
}

#[test]
fn all_processes_write_one_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    for dir in places(&place) {
        for step in [5, 10] {
            let results =
                run(|job| write(job, &folder::path(&dir, step), step, |w| own_boxes(w, job.rank(), step)));
            results.into_iter().for_each(|result| result.unwrap_or_else(|e| panic!("{e}")));
        }
        check(&dir, &[5, 10]);
        // A checkpoint of the same step is replaced.
        run(|job| write(job, &folder::path(&dir, 10), 10, |w| own_boxes(w, job.rank(), 10)).unwrap());
        check(&dir, &[5, 10]);
    }
}

/// Runs a save in which `fill` fails in some process, after a valid checkpoint of step 5. All processes must
/// report the failure, the old checkpoint must stay, nothing else may be left, and the next save must
/// succeed.
#[track_caller]
fn fails(fill: impl Fn(&mut Writer, u32) -> Result<()> + Sync, parts: &[&str]) {
    let place = tempfile::tempdir().unwrap();
    for dir in places(&place) {
        let results = run(|job| {
            write(job, &folder::path(&dir, 5), 5, |w| own_boxes(w, job.rank(), 5)).unwrap();
            let failed = write(job, &folder::path(&dir, 10), 10, |w| fill(w, job.rank()));
            write(job, &folder::path(&dir, 15), 15, |w| own_boxes(w, job.rank(), 15)).unwrap();
            failed
        });
        for result in results {
            let error = result.unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        check(&dir, &[5, 15]);
    }
}

#[test]
fn a_process_that_cannot_write_leaves_the_previous_checkpoint() {
    for bad in 0..RANKS {
        let full = |w: &mut Writer, rank: u32| {
            own_boxes(w, rank, 10)?;
            if rank == bad { Err(Error::input("no space left", "free some")) } else { Ok(()) }
        };
        fails(full, &["no space left", "free some"]);
    }
    // The name of the file that rank 1 writes is taken.
    let taken = |w: &mut Writer, rank: u32| {
        if rank == 1 {
            let name = w.sink().name("00001-00000", "safetensors");
            w.sink().write(&name)(vec![b"x".as_slice().into()])?;
            own_boxes(w, rank, 10)?;
            let complete = w.complete();
            if w.sink().attempt().starts_with('.') {
                return complete.map(drop);
            }
            // An object store replaces the object.
            return Err(Error::input("creating 00001-00000.safetensors: exists", "none"));
        }
        own_boxes(w, rank, 10)
    };
    fails(taken, &["creating", "00001-00000.safetensors"]);
}

#[test]
fn gaps_and_overlaps_between_processes_are_refused() {
    let gap = |w: &mut Writer, rank: u32| if rank == 1 { Ok(()) } else { own_boxes(w, rank, 10) };
    fails(gap, &["tensor `split`", "24 bytes instead of 36"]);
    let twice = |w: &mut Writer, rank: u32| {
        own_boxes(w, rank, 10)?;
        if rank == 2 { part(w, "whole-1", 10, (4, 2)) } else { Ok(()) }
    };
    fails(twice, &["tensor `whole-1`", "[0:9]", "[4:6]", "overlap"]);
    let other_type = |w: &mut Writer, rank: u32| {
        own_boxes(w, rank, 10)?;
        let value = HostTensor::s32(&[9], &[0; 9]);
        let dims = [("x".to_owned(), 9)];
        if rank == 2 { w.part("whole-0", Kind::Param, &dims, &[0], value) } else { Ok(()) }
    };
    fails(other_type, &["tensor `whole-0`", "s32[x=9] in rank 2", "f32[x=9] in an earlier rank"]);
}

/// Does `harm` to the files of the attempt in rank 2, after it has written them.
#[track_caller]
fn damaged(harm: impl Fn(&mut Writer) + Sync, parts: &[&str]) {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("folder");
    let results = run(|job| {
        write(job, &folder::path(&dir, 5), 5, |w| own_boxes(w, job.rank(), 5)).unwrap();
        write(job, &folder::path(&dir, 10), 10, |w| {
            own_boxes(w, job.rank(), 10)?;
            if job.rank() == 2 {
                harm(w);
            }
            Ok(())
        })
    });
    for result in results {
        let error = result.unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    check(&dir, &[5]);
}

#[test]
fn parts_that_are_not_what_a_process_wrote_are_refused() {
    // Rank 1's part of the manifest is altered or removed once it is there.
    let with_part = |w: &mut Writer, act: &dyn Fn(&Path)| {
        let dir = w.sink().dir().expect("the test writes to a folder").to_owned();
        let part = dir.join("part-00001.json");
        while !part.exists() || fs::read(&part).unwrap().is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
        // The whole part is there once its last byte is.
        while fs::read(&part).unwrap().last() != Some(&b'}') {
            thread::sleep(Duration::from_millis(1));
        }
        act(&dir);
    };
    damaged(
        |w| with_part(w, &|dir| fs::remove_file(dir.join("part-00001.json")).unwrap()),
        &["reading", "part-00001.json"],
    );
    let alter = |dir: &Path| {
        let path = dir.join("part-00001.json");
        let text = fs::read_to_string(&path).unwrap().replace("\"step\":10", "\"step\":11");
        fs::write(path, text).unwrap();
    };
    damaged(|w| with_part(w, &alter), &["part-00001.json", "rank 1", "the digests differ"]);
    damaged(
        |w| with_part(w, &|dir| fs::remove_file(dir.join("00001-00000.safetensors")).unwrap()),
        &["`00001-00000.safetensors` is missing", "all processes share"],
    );
    let cut = |dir: &Path| fs::write(dir.join("00001-00000.safetensors"), "x").unwrap();
    damaged(|w| with_part(w, &cut), &["`00001-00000.safetensors` has 1 bytes", "wrote"]);
}

#[test]
fn a_lost_process_leaves_the_previous_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    for dir in places(&place) {
        for lost in 0..RANKS {
            let results = run_some(|job| {
                write(job, &folder::path(&dir, 5), 5, |w| own_boxes(w, job.rank(), 5)).unwrap();
                write(job, &folder::path(&dir, 10), 10, |w| {
                    own_boxes(w, job.rank(), 10)?;
                    assert!(job.rank() != lost, "this rank is killed");
                    Ok(())
                })
            });
            for (rank, result) in (0u32..).zip(results) {
                let Some(result) = result else {
                    assert_eq!(rank, lost);
                    continue;
                };
                let error = result.unwrap_err();
                assert!(matches!(error, Error::Job(_)), "{error}");
                assert!(lost == 0 || error.to_string().contains(&format!("lost rank {lost}")), "{error}");
            }
            // The next run removes the remains.
            folder::sweep(&dir).unwrap();
            check(&dir, &[5]);
        }
    }
}

#[test]
fn a_folder_that_is_not_shared_is_refused() {
    let place = tempfile::tempdir().unwrap();
    for dir in places(&place) {
        let short = Duration::from_millis(200);
        run(|job| prove_shared(&dir, processes(job), Duration::from_secs(5)).unwrap());
        let left = names(&dir);
        assert!(left.is_empty(), "{left:?}");
        // Rank 1 has a folder of the same name on another disk.
        let results = run(|job| {
            let own = if job.rank() == 1 { dir.join("elsewhere") } else { dir.clone() };
            prove_shared(&own, processes(job), short)
        });
        for (rank, result) in results.into_iter().enumerate() {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("is not the folder that rank 0 on"), "{error}");
            assert!(error.contains("one folder for all of them"), "{error}");
            assert!(rank == 1 || error.contains("rank 1 ("), "{error}");
        }
        let left: Vec<String> = names(&dir).into_iter().filter(|n| n.contains("shared")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
