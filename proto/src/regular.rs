//! Reading of regular files. A FIFO, device or socket would block or never end, and is refused by name.

use std::{
    fs::{self, File, FileType},
    io::{Error, ErrorKind, Read, Result},
    os::unix::fs::FileTypeExt,
    path::Path,
};

/// Opens a file for reading. Links are followed.
///
/// # Errors
/// If it cannot be opened, or is no regular file: the error names the kind.
pub fn open(path: &Path) -> Result<File> {
    check(path)?;
    File::open(path)
}

/// Returns the bytes of a file.
///
/// # Errors
/// As [`open`], and if it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    check(path)?;
    fs::read(path)
}

/// Returns the text of a file.
///
/// # Errors
/// As [`read`], and if it is not UTF-8.
pub fn read_to_string(path: &Path) -> Result<String> {
    let (mut file, mut text) = (open(path)?, String::new());
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Checks that a path leads to a regular file.
///
/// # Errors
/// If its properties cannot be read, or it is of another kind.
pub fn check(path: &Path) -> Result<()> {
    match other(fs::metadata(path)?.file_type()) {
        None => Ok(()),
        Some(kind) => Err(Error::new(ErrorKind::InvalidInput, format!("it is a {kind}, not a file"))),
    }
}

/// The name of the kind of what is no regular file.
pub fn other(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("directory")
    } else if kind.is_fifo() {
        Some("FIFO (named pipe)")
    } else if kind.is_socket() {
        Some("socket")
    } else {
        Some("device")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::{fs::symlink, net::UnixListener};

    #[test]
    fn only_regular_files_are_read() {
        let dir = std::env::temp_dir().join(format!("regular-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let at = |name: &str| dir.join(name);
        fs::write(at("file"), "text").unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink(at("loop"), at("loop")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap();
        assert!(fifo.success());
        assert_eq!(
            (read_to_string(&at("file")).unwrap(), read(&at("link")).unwrap().len()),
            ("text".into(), 4)
        );
        let fails = |path: &Path, part: &str| {
            let error = open(path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        fails(&at("fifo"), "FIFO");
        fails(&at("socket"), "socket");
        fails(&dir, "directory");
        fails(Path::new("/dev/zero"), "device");
        fails(&at("loop"), "symbolic links");
        fails(&at("none"), "No such file");
        fs::remove_dir_all(&dir).unwrap();
    }
}
