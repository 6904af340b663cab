//! Text that the processes of a job tokenize once.
//!
//! Every process reads the rows that its devices need from the tokens of the whole text, because any row may
//! be needed in any step. Rank 0 tokenizes the text into a folder that all processes of a machine, or of all
//! machines where it is on a shared file system, can read. The others open these tokens. A process that does
//! not see them tokenizes the text itself, with the same result.

use crate::Result;
use data::{PreparedTokens, Reading, Tokenizer, Tokens, prepared};
use job::Job;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// The key that rank 0 sets when it has opened all its texts.
const FINISHED: &[u8] = b"tokens: finished";
/// Interval at which the other ranks look for that key.
const LOOK: Duration = Duration::from_secs(1);

/// A folder for tokens that processes share.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// The path.
    pub path: PathBuf,
    /// Names the program: another version may tokenize differently.
    pub version: String,
}

/// Tokenizes files or opens prepared tokens, as [`Tokens::open`] does. In a job of several processes, rank 0
/// tokenizes for all. Bytes are not tokenized, and therefore not shared.
///
/// # Errors
/// A file cannot be read or tokenized.
pub fn open(
    job: &Job,
    folder: &Folder,
    paths: &[PathBuf],
    reading: &Reading<'_>,
    tokenizer: Option<&Tokenizer>,
) -> Result<Tokens> {
    let is_prepared = paths.iter().any(|path| PreparedTokens::is_at(path));
    let Some(tokenizer @ Tokenizer::Pieces(_)) = tokenizer.filter(|_| !is_prepared && job.size() > 1) else {
        return Ok(Tokens::open(paths, reading, tokenizer)?);
    };
    let key = format!("tokens: {paths:?} {reading:?} {}", tokenizer.identity()).into_bytes();
    let found = if job.is_first() {
        let made = prepared::shared(paths, reading, tokenizer, &folder.path, &folder.version).ok();
        let name =
            made.as_ref().map_or(String::new(), |made| format!("{} {}", dir_name(made), made.digest()));
        // Without an answer, the others tokenize the text themselves.
        let _ = job.put(&key, name.as_bytes());
        made
    } else {
        answer(job, &key).and_then(|answer| seen(&folder.path, &answer))
    };
    match found {
        Some(prepared) => Ok(Tokens::of_prepared(prepared, Some(tokenizer))?),
        None => Ok(Tokens::open(paths, reading, Some(tokenizer))?),
    }
}

/// Tells the other ranks that rank 0 opens no more texts.
pub fn finish(job: &Job) {
    if job.is_first() {
        // Without it, the others find out in a meeting that they wait in vain.
        let _ = job.put(FINISHED, b"1");
    }
}

/// Waits for the answer of rank 0. `None` means that it has none.
fn answer(job: &Job, key: &[u8]) -> Option<Vec<u8>> {
    loop {
        if let Some(found) = job.get(key, LOOK).ok()? {
            return Some(found);
        }
        if job.get(FINISHED, Duration::ZERO).ok()?.is_some() {
            // Rank 0 may have answered just before it finished.
            return job.get(key, Duration::ZERO).ok()?;
        }
    }
}

/// Opens the tokens that rank 0 has named, if this process sees them.
fn seen(folder: &Path, answer: &[u8]) -> Option<PreparedTokens> {
    let (name, wanted) = std::str::from_utf8(answer).ok()?.split_once(' ')?;
    let prepared = PreparedTokens::open(&folder.join(name)).ok()?;
    (prepared.digest() == wanted).then_some(prepared)
}

fn dir_name(prepared: &PreparedTokens) -> String {
    prepared.dir().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::Pieces;
    use job::{Coordinator, Limits};
    use std::{
        fs,
        sync::{
            Arc, Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    /// A tokenizer that counts the texts it has tokenized.
    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    impl Pieces for Counting {
        fn encode(&self, text: &str) -> data::Result<Vec<i32>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(text.split_whitespace().map(|word| 2 + word.len() as i32).collect())
        }
        fn decode(&self, _: &[i32]) -> data::Result<String> {
            Ok(String::new())
        }
        fn tokens(&self) -> usize {
            300
        }
        fn sentinels(&self) -> &[i32] {
            &[]
        }
        fn name(&self) -> &str {
            "counting"
        }
        fn digest(&self) -> &str {
            "the digest"
        }
    }

    /// Opens `text` in two processes with these folders. Returns the texts that each has tokenized.
    #[track_caller]
    fn tokenized(text: &Path, folders: [&Path; 2]) -> Vec<usize> {
        let limits = Limits::default();
        let any = "127.0.0.1:0".parse().unwrap();
        let coordinator = Coordinator::serve(any, 2, "token", limits.clone()).unwrap();
        let address = coordinator.address().to_string();
        let first = Mutex::new(Some(coordinator));
        thread::scope(|scope| {
            let start = |rank: u32| {
                let (address, limits, first) = (&address, limits.clone(), &first);
                scope.spawn(move || {
                    let coordinator = if rank == 0 { first.lock().unwrap().take() } else { None };
                    let on_loss = Box::new(|_: &job::Loss| ());
                    let job = Job::join(address, (rank, 2), "token", limits, coordinator, on_loss).unwrap();
                    let counting = Arc::new(Counting::default());
                    let tokenizer = Tokenizer::Pieces(counting.clone());
                    let folder = Folder { path: folders[rank as usize].into(), version: "1".into() };
                    let tokens =
                        open(&job, &folder, &[text.to_owned()], &Reading::default(), Some(&tokenizer));
                    finish(&job);
                    let tokens = tokens.unwrap();
                    assert_eq!(tokens.read(0..tokens.len()).unwrap()[..3], [3, 4, 5]);
                    job.leave(None);
                    counting.0.load(Ordering::Relaxed)
                })
            };
            [0, 1].map(start).into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn rank_0_tokenizes_for_all_that_see_its_folder() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::write(at("a.txt"), "a bb ccc").unwrap();
        assert_eq!(tokenized(&at("a.txt"), [&at("one"), &at("one")]), [1, 0]);
        assert_eq!(tokenized(&at("a.txt"), [&at("one"), &at("one")]), [0, 0], "a later run");
        assert_eq!(tokenized(&at("a.txt"), [&at("one"), &at("two")]), [0, 1], "no shared folder");
        // A folder that cannot be written.
        fs::write(at("file"), "").unwrap();
        assert_eq!(tokenized(&at("a.txt"), [&at("file"), &at("file")]), [1, 1]);
    }
}
