//! The part of a Transformer that a scope belongs to.

/// Names of all parts, in the order of reports.
pub const PARTS: [&str; 9] = [
    "attention",
    "dense FFN",
    "experts",
    "router",
    "dispatch and combine",
    "embedding",
    "logits and loss",
    "optimizer",
    "other",
];

/// The part that a scope such as `encoder/block/ffn/router` belongs to.
pub fn part(scope: &str) -> &'static str {
    let has = |names: &[&str]| scope.split('/').any(|word| names.contains(&word));
    let words: [(&[&str], &str); 8] = [
        (&["router"], "router"),
        (&["dispatch", "combine"], "dispatch and combine"),
        (&["experts"], "experts"),
        (&["attention", "self_attention", "cross_attention", "relative_bias"], "attention"),
        (&["ffn"], "dense FFN"),
        (&["embedding"], "embedding"),
        (&["logits", "loss"], "logits and loss"),
        (&["optimizer"], "optimizer"),
    ];
    words.iter().find(|(words, _)| has(words)).map_or("other", |(_, part)| part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_word_that_says_something_decides() {
        assert_eq!(part("encoder/block/ffn/router"), "router");
        assert_eq!(part("encoder/block/ffn/experts/collective"), "experts");
        assert_eq!(part("decoder/block/ffn"), "dense FFN");
        assert_eq!(part("decoder/block/cross_attention/einsum"), "attention");
        assert_eq!(part(""), "other");
        assert!(["loss", "embedding", "optimizer/x", "a/combine"].iter().all(|s| PARTS.contains(&part(s))));
    }
}
