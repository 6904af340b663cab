//! Experts of several sizes in one layer.

use std::{convert::Infallible, fmt, str::FromStr};

/// Experts of one size; in a layer, they are numbered one after the other.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ExpertSize {
    /// Size of the hidden layer of each.
    pub d_ff: usize,
    /// Number of experts.
    pub count: usize,
    /// Their capacity factor, as a multiple of that of the layer.
    pub capacity: f64,
}

/// The sizes of a layer's experts. None means that all are alike.
///
/// As text, `512x8,2048x4@2` means 8 experts with a hidden layer of 512, and 4 of 2048 with twice the
/// capacity.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ExpertSizes {
    /// The sizes.
    pub all: Vec<ExpertSize>,
    /// A text that describes no sizes, which validation refuses.
    wrong: Option<String>,
}

impl ExpertSizes {
    /// Returns sizes.
    pub fn new(all: Vec<ExpertSize>) -> Self {
        Self { all, wrong: None }
    }

    /// True if all experts are alike.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns the number of experts of all sizes.
    pub fn experts(&self) -> usize {
        self.all.iter().map(|size| size.count).sum()
    }

    /// Returns the text if it describes no sizes.
    pub(super) fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }
}

impl FromStr for ExpertSizes {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        // At most 32 bits, so that sums of sizes cannot overflow.
        let number = |text: &str| text.parse::<u32>().ok().map(|n| n as usize);
        let size = |word: &str| {
            let (sizes, capacity) = match word.split_once('@') {
                Some((sizes, capacity)) => (sizes, capacity.parse().ok()?),
                None => (word, 1.0),
            };
            let (d_ff, count) = sizes.split_once('x')?;
            Some(ExpertSize { d_ff: number(d_ff)?, count: number(count)?, capacity })
        };
        let all: Option<Vec<ExpertSize>> = text.split(',').map(|word| size(word.trim())).collect();
        let wrong = || Self { all: Vec::new(), wrong: Some(text.to_owned()) };
        Ok(all.map_or_else(wrong, Self::new))
    }
}

impl fmt::Display for ExpertSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.wrong {
            return f.write_str(text);
        }
        for (i, size) in self.all.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{}x{}", size.d_ff, size.count)?;
            if size.capacity != 1.0 {
                write!(f, "@{}", size.capacity)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        let read = |text: &str| text.parse::<ExpertSizes>().unwrap();
        let sizes = read("512x8, 2048x4@1.5");
        let of = |d_ff, count, capacity| ExpertSize { d_ff, count, capacity };
        assert_eq!(sizes.all, [of(512, 8, 1.0), of(2048, 4, 1.5)]);
        assert_eq!((sizes.experts(), sizes.to_string().as_str()), (12, "512x8,2048x4@1.5"));
        assert_eq!(read(""), ExpertSizes::default());
        for text in ["512", "512x", "x8", "512x8,", "512x8@", "512x-1", "512x8@a"] {
            assert_eq!((read(text).wrong(), read(text).is_empty()), (Some(text), true));
        }
    }
}
