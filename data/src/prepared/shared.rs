//! Prepared tokens that several processes share through a folder.

use super::{
    directory::PreparedTokens,
    manifest::{VERSION, file_digest},
    writer::prepare,
};
use crate::{
    Error, Reading, Result,
    files::{self, Sink},
    format::Part,
    tokenizer::Tokenizer,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// The time after which a directory that no process has opened is removed.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// Opens the tokens of files in a directory of `folder`, and prepares them if there is none. The name of the
/// directory is a digest of the files, the options, the tokenizer, and `version`, which names the program.
///
/// # Errors
/// If a file cannot be read or tokenized, or `folder` cannot be written.
pub fn shared(
    paths: &[PathBuf],
    reading: &Reading<'_>,
    tokenizer: &Tokenizer,
    folder: &Path,
    version: &str,
) -> Result<PreparedTokens> {
    let mut identity = Identity(blake3::Hasher::new());
    identity.add(&[&VERSION.to_string(), version, tokenizer.identity(), reading.field]);
    files::read(paths, reading, &mut identity)?;
    let dir = folder.join(&identity.0.finalize().to_hex()[..32]);
    if PreparedTokens::is_at(&dir) {
        match PreparedTokens::open(&dir) {
            Ok(prepared) => {
                note_use(&dir);
                return Ok(prepared);
            }
            Err(_) => fs::remove_dir_all(&dir).map_err(Error::io("removing damaged tokens in", &dir))?,
        }
    }
    fs::create_dir_all(folder).map_err(Error::io("creating the folder of shared tokens", folder))?;
    remove_unused(folder);
    match prepare(paths, reading, tokenizer, &dir, &mut |_, _| ()) {
        // Another process may have written the same tokens in the meantime.
        Err(error) => PreparedTokens::open(&dir).map_err(|_| error),
        prepared => prepared,
    }
}

/// The digest of all files that are read, in order.
struct Identity(blake3::Hasher);

impl Identity {
    fn add(&mut self, words: &[&str]) {
        for word in words {
            self.0.update(&(word.len() as u64).to_le_bytes()).update(word.as_bytes());
        }
    }
}

impl Sink for Identity {
    fn begin(&mut self, _: &Path) -> Result<()> {
        Ok(())
    }
    fn part(&mut self, _: Part<'_>) -> Result<()> {
        Ok(())
    }
    fn end(&mut self, path: &Path) -> Result<()> {
        // The ending of a name tells the format.
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.add(&[&name, &file_digest(path)?]);
        Ok(())
    }
    fn undo(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Notes that a directory is used. A file system without times only makes it older.
fn note_use(dir: &Path) {
    if let Ok(file) = fs::File::open(dir) {
        let _ = file.set_modified(SystemTime::now());
    }
}

/// Removes directories that no process has opened for a long time. What cannot be removed stays.
fn remove_unused(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        if modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > UNUSED)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::words;

    #[test]
    fn the_same_text_is_tokenized_once() {
        let place = tempfile::tempdir().unwrap();
        let (text, folder) = (place.path().join("a.txt"), place.path().join("shared"));
        let tokenizer = words(300, &[]);
        let open = |field: &str, version: &str| {
            let reading = Reading { field, ..Reading::default() };
            shared(std::slice::from_ref(&text), &reading, &tokenizer, &folder, version).unwrap()
        };
        fs::write(&text, "a bb ccc").unwrap();
        let first = open("text", "1");
        assert_eq!(open("text", "1").dir(), first.dir());
        // Another field, program or text.
        let mut dirs = vec![first.dir().to_owned(), open("body", "1").dir().to_owned()];
        dirs.push(open("text", "2").dir().to_owned());
        fs::write(&text, "a bb cc").unwrap();
        let last = open("text", "1");
        dirs.push(last.dir().to_owned());
        dirs.sort();
        dirs.dedup();
        assert_eq!(dirs.len(), 4, "{dirs:?}");
        // Damaged tokens are prepared again.
        fs::write(last.dir().join("tokens.bin"), "").unwrap();
        assert_eq!(open("text", "1").manifest(), last.manifest());
        // Old directories are removed when new ones are made.
        let old = fs::File::open(first.dir()).unwrap();
        old.set_modified(SystemTime::now() - UNUSED - Duration::from_secs(60)).unwrap();
        open("title", "1");
        assert!(!first.dir().exists() && last.dir().exists());
    }
}
