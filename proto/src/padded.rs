//! Dims with padding, as a program's meta entry [`PADDED`] and the fact of its checkpoints list them:
//! `DIM=SIZE:SETTING`, separated by commas. SIZE is the used part of the dim, and SETTING is the one that
//! pads it.

/// The name of the meta entry and of the fact.
pub const PADDED: &str = "padded";

/// Returns dims, their used parts, and the settings that pad them. Entries that cannot be read are left out:
/// their dims then have no padding.
pub fn entries(text: &str) -> impl Iterator<Item = (&str, usize, &str)> {
    text.split(',').filter_map(|entry| {
        let (dim, rest) = entry.split_once('=')?;
        let (used, setting) = rest.split_once(':')?;
        Some((dim, used.parse().ok()?, setting))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_a_dim_a_size_and_a_setting() {
        let of = |text| entries(text).collect::<Vec<_>>();
        assert_eq!(of("vocab=13:vocab_padding,d=4:p"), [("vocab", 13, "vocab_padding"), ("d", 4, "p")]);
        assert_eq!(of(",vocab,vocab=13,vocab=x:p,d=4:p"), [("d", 4, "p")]);
    }
}
