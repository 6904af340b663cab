//! Sorted tables of LevelDB, in which TensorFlow stores the index of a checkpoint.
//!
//! A table ends with 48 bytes: the places of two blocks, and a number that marks the format. The second block
//! lists the other blocks. The keys of a block are stored without the beginning that they share with the
//! key before. A block is followed by the kind of its compression and a checksum of both.

use runtime::train::events::masked;

/// The number at the end of a table.
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
/// Length of the end of a table.
const FOOTER: usize = 48;
/// Length of the kind of compression and the checksum after a block.
const TRAILER: usize = 5;

/// A key and its value.
pub type Record = (Vec<u8>, Vec<u8>);

/// The reason why a checkpoint is not read. It begins with a verb.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Files are incomplete or damaged.
    Damaged(String),
    /// The format or the model is not supported.
    Unsupported(String),
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self::Damaged(why)
    }
}

impl From<&str> for Refused {
    fn from(why: &str) -> Self {
        Self::Damaged(why.to_owned())
    }
}

/// Returns the records of a table, in the order of their keys.
///
/// # Errors
/// The bytes are no table, are damaged, or are compressed.
pub fn records(bytes: &[u8]) -> Result<Vec<Record>, Refused> {
    let footer = bytes.len().checked_sub(FOOTER).map(|at| &bytes[at..]).ok_or("is too short")?;
    if footer[FOOTER - 8..] != MAGIC.to_le_bytes() {
        return Err("is not the index of a TensorFlow checkpoint, or is truncated".into());
    }
    let mut at = &footer[..FOOTER - 8];
    place(&mut at)?;
    let mut all: Vec<Record> = Vec::new();
    for (_, handle) in block(bytes, place(&mut at)?)? {
        for (key, value) in block(bytes, place(&mut &handle[..])?)? {
            if all.last().is_some_and(|(before, _)| *before >= key) {
                return Err(format!("has the key `{}` out of order", String::from_utf8_lossy(&key)).into());
            }
            all.push((key, value));
        }
    }
    Ok(all)
}

/// Returns the offset and the length of a block.
fn place(bytes: &mut &[u8]) -> Result<(usize, usize), String> {
    Ok((varint(bytes)?, varint(bytes)?))
}

fn varint(bytes: &mut &[u8]) -> Result<usize, String> {
    let number = prost::encoding::decode_varint(bytes).map_err(|e| format!("has a damaged number: {e}"))?;
    usize::try_from(number).map_err(|e| format!("has a damaged number: {e}"))
}

/// Returns the records of a block.
fn block(bytes: &[u8], (offset, length): (usize, usize)) -> Result<Vec<Record>, Refused> {
    let end = offset.checked_add(length).and_then(|end| end.checked_add(TRAILER));
    let whole = end.and_then(|end| bytes.get(offset..end));
    let whole = whole.ok_or_else(|| format!("has a block at {offset} beyond its end"))?;
    let (content, sum) = whole.split_at(length + 1);
    let stored = u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]);
    if stored != masked(crc32c::crc32c(content)) {
        return Err(format!("has a block at {offset} whose checksum is wrong").into());
    }
    if content[length] != 0 {
        let why = format!("has a compressed block at {offset}; TensorFlow writes them uncompressed");
        return Err(Refused::Unsupported(why));
    }
    let broken = || format!("has a damaged block at {offset}");
    // At the end are offsets of keys that are stored whole, and their number.
    let content = &content[..length];
    let count = length.checked_sub(4).map(|at| &content[at..]).ok_or_else(broken)?;
    let count = u32::from_le_bytes([count[0], count[1], count[2], count[3]]) as usize;
    let records = count.checked_mul(4).and_then(|n| length.checked_sub(n + 4)).ok_or_else(broken)?;
    let (mut rest, mut all) = (&content[..records], Vec::new());
    let mut key: Vec<u8> = Vec::new();
    while !rest.is_empty() {
        let (shared, own, value) = (varint(&mut rest)?, varint(&mut rest)?, varint(&mut rest)?);
        if shared > key.len() || own.checked_add(value).is_none_or(|n| n > rest.len()) {
            return Err(broken().into());
        }
        key.truncate(shared);
        key.extend_from_slice(&rest[..own]);
        all.push((key.clone(), rest[own..own + value].to_vec()));
        rest = &rest[own + value..];
    }
    Ok(all)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use prost::encoding::encode_varint;

    fn end(mut content: Vec<u8>) -> Vec<u8> {
        content.push(0);
        let sum = masked(crc32c::crc32c(&content));
        [content, sum.to_le_bytes().to_vec()].concat()
    }

    fn content(records: &[Record]) -> Vec<u8> {
        let (mut out, mut before) = (Vec::new(), &[][..]);
        for (key, value) in records {
            let shared = key.iter().zip(before).take_while(|(a, b)| a == b).count();
            for n in [shared, key.len() - shared, value.len()] {
                encode_varint(n as u64, &mut out);
            }
            out.extend_from_slice(&key[shared..]);
            out.extend_from_slice(value);
            before = key;
        }
        out.extend_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0]);
        out
    }

    fn handle(offset: usize, length: usize) -> Vec<u8> {
        let mut out = Vec::new();
        encode_varint(offset as u64, &mut out);
        encode_varint(length as u64, &mut out);
        out
    }

    /// Returns a table with a block for every two records.
    pub fn table(records: &[Record]) -> Vec<u8> {
        let (mut out, mut index) = (Vec::new(), Vec::new());
        for part in records.chunks(2) {
            let block = content(part);
            index.push((part[part.len() - 1].0.clone(), handle(out.len(), block.len())));
            out.extend(end(block));
        }
        let meta = content(&[]);
        let mut footer = handle(out.len(), meta.len());
        out.extend(end(meta));
        let index = content(&index);
        footer.extend(handle(out.len(), index.len()));
        out.extend(end(index));
        footer.resize(FOOTER - 8, 0);
        [out, footer, MAGIC.to_le_bytes().to_vec()].concat()
    }

    fn five() -> Vec<Record> {
        ["", "ab", "abc", "abd", "b"].map(|key| (key.into(), [key.as_bytes(), b"!"].concat())).into()
    }

    #[test]
    fn keys_that_share_their_beginning_are_read() {
        assert_eq!(records(&table(&five())).unwrap(), five());
        assert_eq!(records(&table(&[])).unwrap(), []);
    }

    #[test]
    fn compressed_blocks_are_not_supported() {
        let mut bytes = table(&five()[..1]);
        let length = content(&five()[..1]).len();
        bytes[length] = 1;
        let sum = masked(crc32c::crc32c(&bytes[..=length]));
        bytes[length + 1..length + TRAILER].copy_from_slice(&sum.to_le_bytes());
        let why = "has a compressed block at 0; TensorFlow writes them uncompressed".into();
        assert_eq!(records(&bytes), Err(Refused::Unsupported(why)));
    }

    #[test]
    fn every_flipped_bit_is_found_or_harmless() {
        let bytes = table(&five());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = records(&damaged) {
                assert_eq!(read, five(), "bit {bit}");
            }
        }
        for length in 0..bytes.len() {
            assert!(records(&bytes[..length]).is_err(), "{length} bytes");
        }
        let reversed: Vec<Record> = five().into_iter().rev().collect();
        let why = Refused::Damaged("has the key `abd` out of order".into());
        assert_eq!(records(&table(&reversed)), Err(why));
    }
}
