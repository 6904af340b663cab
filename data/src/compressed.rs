//! Decompression as a stream, up to a limit.

use super::problem::Problem;
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use std::{
    fmt::Display,
    io::{self, BufRead, BufReader, Read},
};

/// Decompresses `source`, whose data may have at most `limit` bytes. Damage is an error with a [`Problem`].
pub(super) fn gzip(source: impl Read + 'static, limit: u64) -> Box<dyn Read> {
    Box::new(Limited { inner: MultiGzDecoder::new(BufReader::new(source)), format: "gzip", read: 0, limit })
}

/// As [`gzip`], for zstd.
pub(super) fn zstd(source: impl Read + 'static, limit: u64) -> Box<dyn Read> {
    let zstd = Zstd { source: BufReader::new(source), decoder: FrameDecoder::new(), inside: false };
    Box::new(Limited { inner: zstd, format: "zstd", read: 0, limit })
}

/// Data of a compressed file.
struct Limited<R> {
    inner: R,
    format: &'static str,
    /// Bytes so far.
    read: u64,
    limit: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = match self.inner.read(into) {
            Ok(count) => count,
            // Errors of the system are about the file, all others about its contents.
            Err(error) if error.raw_os_error().is_some() || error.kind() == io::ErrorKind::Interrupted => {
                return Err(error);
            }
            Err(error) => return Err(io::Error::other(damaged(self.format, self.read, error))),
        };
        self.read += count as u64;
        if self.read > self.limit {
            return Err(io::Error::other(too_much(self.format, self.limit)));
        }
        Ok(count)
    }
}

/// Frames of zstd, one after the other.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    /// True within a frame.
    inside: bool,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.inside {
                if self.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.begin()?;
                continue;
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(into);
            }
            if self.decoder.is_finished() {
                // The decoder computes the checksum but does not compare it.
                if let Some(sum) = self.decoder.get_checksum_from_data()
                    && self.decoder.get_calculated_checksum() != Some(sum)
                {
                    return Err(io::Error::other("the checksum differs"));
                }
                self.inside = false;
                continue;
            }
            let block = BlockDecodingStrategy::UptoBlocks(1);
            self.decoder.decode_blocks(&mut self.source, block).map_err(io::Error::other)?;
        }
    }
}

impl<R: BufRead> Zstd<R> {
    /// Reads the header of a frame, or skips a frame without data.
    fn begin(&mut self) -> io::Result<()> {
        match self.decoder.reset(&mut self.source) {
            Ok(()) => self.inside = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                let length = u64::from(length);
                if io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? < length {
                    return Err(io::Error::other("the file ends early"));
                }
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(())
    }
}

fn damaged(format: &str, read: u64, why: impl Display) -> Problem {
    Problem {
        what: format!("is damaged or cut off: as {format} it ends after {read} bytes of data ({why})"),
        help: format!("copy or download the file again, or rename it if it is not {format}"),
        damage: true,
    }
}

fn too_much(format: &str, limit: u64) -> Problem {
    Problem {
        what: format!("has more than {limit} bytes of data, compressed by {format}"),
        help: "if the file can be trusted, raise --max-decompressed".into(),
        damage: true,
    }
}
