//! Rules that match parameters of a program with tensors of a checkpoint by name.
//!
//! A rule `student/*=teacher/*` takes the parameter `student/x` from the tensor `teacher/x`. Both sides may
//! select indices of one dim: `encoder/*[layers=0:3]=encoder/*[layers=0::2]`.

use std::{fmt, str::FromStr};

/// The meta entry of a program with the rules that apply unless others are given, separated by spaces.
pub const MAP: &str = "from.map";
/// The meta entry of a program with patterns of parameters that a checkpoint need not have, separated by
/// spaces.
pub const ALLOW_MISSING: &str = "from.allow_missing";

/// The meta entry of a program with patterns of parameters that have their initial values unless a rule
/// applies, also if a checkpoint has tensors of their names; separated by spaces.
pub const INITIAL: &str = "from.initial";

/// A pattern of names. `*` stands for any text, also with slashes and also empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(String);

impl Pattern {
    /// Returns true if the pattern describes all of `name`.
    pub fn matches(&self, name: &str) -> bool {
        self.captures(name).is_some()
    }

    /// Returns the text that each `*` stands for: the shortest possible for all but the last one. `None`
    /// means that the name does not match.
    fn captures<'n>(&self, name: &'n str) -> Option<Vec<&'n str>> {
        let mut parts = self.0.split('*');
        let mut rest = name.strip_prefix(parts.next()?)?;
        let mut texts = Vec::new();
        let parts: Vec<&str> = parts.collect();
        for (i, part) in parts.iter().enumerate() {
            let last = i + 1 == parts.len();
            let at = if last { rest.len().checked_sub(part.len())? } else { rest.find(part)? };
            texts.push(rest.get(..at)?);
            rest = rest.get(at..)?.strip_prefix(part)?;
        }
        rest.is_empty().then_some(texts)
    }

    /// Returns the pattern with texts in place of each `*`.
    fn filled(&self, texts: &[&str]) -> String {
        let mut parts = self.0.split('*');
        let mut name = parts.next().unwrap_or_default().to_owned();
        for (text, part) in texts.iter().zip(parts) {
            name.push_str(text);
            name.push_str(part);
        }
        name
    }

    fn stars(&self) -> usize {
        self.0.matches('*').count()
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || "[]=".contains(c)) {
            return Err(format!("`{text}` is not a name or a pattern such as `encoder/*/wi`"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Indices of one dim: `layers=3`, `layers=0:6`, `layers=1::2` (first, end, step).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Selection {
    pub dim: String,
    first: usize,
    /// One past the last index. `None` means the size of the dim.
    end: Option<usize>,
    step: usize,
}

impl Selection {
    /// Returns the selected indices of a dim of this size. The error is a reason.
    pub fn indices(&self, size: usize) -> Result<Vec<usize>, String> {
        let end = self.end.unwrap_or(size);
        let indices: Vec<usize> = (self.first..end).step_by(self.step).collect();
        match indices.last() {
            Some(last) if *last < size => Ok(indices),
            Some(_) | None => Err(format!("`{self}` selects no part of `{}={size}`", self.dim)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (dim, range) = text.split_once('=')?;
        let number = |word: &str, default| if word.is_empty() { Some(default) } else { word.parse().ok() };
        let words: Vec<&str> = range.split(':').collect();
        let (first, end, step) = match words[..] {
            [only] => {
                let only: usize = only.parse().ok()?;
                (only, Some(only.checked_add(1)?), 1)
            }
            [first, end] => (number(first, 0)?, optional(end)?, 1),
            [first, end, step] => (number(first, 0)?, optional(end)?, number(step, 1)?),
            _ => return None,
        };
        (!dim.is_empty() && step > 0).then(|| Self { dim: dim.to_owned(), first, end, step })
    }
}

/// Returns the number, or the inner `None` for an empty word. The outer `None` means that it is no number.
fn optional(word: &str) -> Option<Option<usize>> {
    if word.is_empty() { Some(None) } else { word.parse().ok().map(Some) }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dim, first, end, step } = self;
        let end = end.map_or_else(String::new, |end| end.to_string());
        write!(f, "{dim}={first}:{end}")?;
        if *step == 1 { Ok(()) } else { write!(f, ":{step}") }
    }
}

/// One side of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Side {
    pub names: Pattern,
    /// `None` means all indices.
    pub part: Option<Selection>,
}

impl FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((names, part)) = text.split_once('[') else {
            return Ok(Self { names: text.parse()?, part: None });
        };
        let part = part.strip_suffix(']').and_then(Selection::parse).ok_or_else(|| {
            format!("`[{part}` is not a part such as `[layers=0:6]`, `[layers=::2]` or `[layers=3]`")
        })?;
        Ok(Self { names: names.parse()?, part: Some(part) })
    }
}

/// A rule `TO=FROM`: parameters whose names match `TO` are taken from the tensors `FROM` of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    pub(super) to: Side,
    pub(super) from: Side,
    text: String,
}

impl Rule {
    /// Returns the name of the tensor of the checkpoint that the parameter `name` is taken from. `None` means
    /// that the rule does not apply to it.
    pub(super) fn source(&self, name: &str) -> Option<String> {
        Some(self.from.names.filled(&self.to.names.captures(name)?))
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // An equals sign in brackets belongs to a part.
        let mut inside = false;
        let split = text.char_indices().find(|(_, c)| {
            inside = (inside || *c == '[') && *c != ']';
            *c == '=' && !inside
        });
        let Some((at, _)) = split else {
            return Err("a rule is written PARAMETERS=TENSORS, such as `student/*=teacher/*`".to_owned());
        };
        let (to, from): (Side, Side) = (text[..at].parse()?, text[at + 1..].parse()?);
        let (left, right) = (to.names.stars(), from.names.stars());
        if left != right {
            return Err(format!("both sides need the same number of `*` (got {left} and {right})"));
        }
        Ok(Self { to, from, text: text.to_owned() })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// All rules of a load. Parameters to which no rule applies are taken from the tensors of the same name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mapping {
    /// The rules.
    pub rules: Vec<Rule>,
    /// Parameters that the checkpoint need not have: they have their initial values.
    pub allow_missing: Vec<Pattern>,
    /// Parameters that are not taken from the tensor of the same name. Parts to which no rule applies have
    /// their initial values.
    pub initial: Vec<Pattern>,
    /// Tensors of the checkpoint that are left, as if it did not have them.
    pub ignore: Vec<Pattern>,
}

impl Mapping {
    /// True if nothing is given.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.allow_missing.is_empty() && self.ignore.is_empty()
    }

    /// Returns the mapping completed by what the program states in the meta entries [`MAP`], [`INITIAL`] and
    /// [`ALLOW_MISSING`], which `meta` looks up.
    ///
    /// # Errors
    /// A meta entry cannot be parsed. The error is a reason.
    pub fn completed<'m>(&self, meta: impl Fn(&str) -> Option<&'m str>) -> Result<Self, String> {
        let words = |key: &'static str| meta(key).unwrap_or_default().split_whitespace();
        let bad = |key: &str, why: String| format!("the program's meta entry `{key}`: {why}");
        let mut all = self.clone();
        if all.rules.is_empty() {
            let rules = words(MAP).map(str::parse).collect::<Result<_, _>>();
            all.rules = rules.map_err(|why| bad(MAP, why))?;
        }
        for (key, patterns) in [(ALLOW_MISSING, &mut all.allow_missing), (INITIAL, &mut all.initial)] {
            for word in words(key) {
                patterns.push(word.parse().map_err(|why| bad(key, why))?);
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: Option<&[&str]>) {
        let pattern: Pattern = pattern.parse().unwrap();
        assert_eq!(pattern.captures(name).as_deref(), expected, "{name}");
    }

    #[test]
    fn a_star_stands_for_any_text() {
        check("encoder/norm", "encoder/norm", Some(&[]));
        check("encoder/norm", "encoder/norm/scale", None);
        check("*", "encoder/norm", Some(&["encoder/norm"]));
        check("student/*", "student/encoder/ffn/wi", Some(&["encoder/ffn/wi"]));
        check("student/*", "teacher/encoder", None);
        check("*/ffn/*", "encoder/ffn/ffn/wi", Some(&["encoder", "ffn/wi"]));
        check("*/wi*", "encoder/ffn/wi_0", Some(&["encoder/ffn", "_0"]));
        check("a*a", "a", None);
        check("a*a", "aa", Some(&[""]));
        check("*ä*", "xäy", Some(&["x", "y"]));
        check("**", "x", Some(&["", "x"]));
    }

    #[track_caller]
    fn source(rule: &str, name: &str, expected: Option<&str>) {
        let rule: Rule = rule.parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(rule.source(name).as_deref(), expected);
    }

    #[test]
    fn a_rule_names_the_tensor_of_a_parameter() {
        source("student/*=teacher/*", "student/encoder/wi", Some("teacher/encoder/wi"));
        source("student/*=*", "student/encoder/wi", Some("encoder/wi"));
        source("*/wi_1=*/wi", "encoder/ffn/wi_1", Some("encoder/ffn/wi"));
        source("*/a/*=*/b/*", "x/a/y", Some("x/b/y"));
        source("head=embedding", "head", Some("embedding"));
        source("head=embedding", "embedding", None);
        source("a/*[layers=0:2]=b/*[layers=1::2]", "a/q", Some("b/q"));
    }

    #[track_caller]
    fn selects(part: &str, size: usize, expected: Result<&[usize], &str>) {
        let rule: Rule = format!("a[{part}]=b").parse().unwrap_or_else(|e| panic!("{e}"));
        let part = rule.to.part.unwrap().indices(size);
        assert_eq!(part.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn a_part_selects_indices() {
        selects("layers=3", 4, Ok(&[3]));
        selects("layers=1:3", 4, Ok(&[1, 2]));
        selects("layers=::2", 5, Ok(&[0, 2, 4]));
        selects("layers=1::3", 5, Ok(&[1, 4]));
        selects("layers=:", 2, Ok(&[0, 1]));
        selects("layers=4", 4, Err("`layers=4:5` selects no part of `layers=4`"));
        selects("layers=2:1", 4, Err("`layers=2:1` selects no part of `layers=4`"));
        selects("layers=0:9:2", 4, Err("`layers=0:9:2` selects no part of `layers=4`"));
    }

    #[track_caller]
    fn refuses(rule: &str, why: &str) {
        assert_eq!(
            rule.parse::<Rule>().map_err(|e| e.contains(why)),
            Err(true),
            "{:?}",
            rule.parse::<Rule>()
        );
    }

    #[test]
    fn wrong_rules_are_refused() {
        refuses("student/*", "is written PARAMETERS=TENSORS");
        refuses("student/*=teacher", "the same number of `*` (got 1 and 0)");
        refuses("=teacher", "`` is not a name");
        refuses("a=b=c", "`b=c` is not a name");
        refuses("a[layers]=b", "`[layers]` is not a part");
        refuses("a[layers=x]=b", "`[layers=x]` is not a part");
        refuses("a[layers=0:1:0]=b", "is not a part");
        refuses("a[layers=0:1=b", "PARAMETERS=TENSORS");
        refuses("a b=c", "`a b` is not a name");
    }

    #[test]
    fn the_program_completes_the_mapping() {
        let meta = |key: &str| match key {
            MAP => Some("student/*=* teacher/*=*"),
            ALLOW_MISSING => Some("*/lora_a */lora_b"),
            _ => None,
        };
        let all = Mapping::default().completed(meta).unwrap();
        assert_eq!((all.rules.len(), all.allow_missing.len()), (2, 2));
        let given = Mapping { rules: vec!["a=b".parse().unwrap()], ..Mapping::default() };
        let all = given.completed(meta).unwrap();
        assert_eq!((all.rules, all.allow_missing.len()), (given.rules, 2));
        assert!(Mapping::default().completed(|_| Some("a=b=c")).unwrap_err().contains("`from.map`"));
    }
}
