//! Facts of a checkpoint about the element types of the arrays that it was imported from, so that an export
//! has the same.

use crate::{failure, hf::file::Element};
use anyhow::Result;
use runtime::checkpoint::Checkpoint;
use std::collections::BTreeMap;

/// Element types of arrays by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ElementTypes {
    usual: Element,
    /// Arrays with another type.
    others: BTreeMap<String, Element>,
}

impl ElementTypes {
    /// Returns the types of imported arrays. 64-bit elements are rounded to 32 bits, and are 32-bit elements
    /// from here on.
    pub(crate) fn imported(kinds: BTreeMap<String, Element>) -> Self {
        let rounded = |element| if element == Element::F64 { Element::F32 } else { element };
        let kinds: BTreeMap<String, Element> = kinds.into_iter().map(|(n, e)| (n, rounded(e))).collect();
        let count = |element: Element| kinds.values().filter(|e| **e == element).count();
        let usual = [Element::F32, Element::Bf16, Element::F16].into_iter().max_by_key(|e| count(*e));
        let usual = usual.unwrap_or(Element::F32);
        Self { usual, others: kinds.into_iter().filter(|(_, element)| *element != usual).collect() }
    }

    /// Returns the facts that state the types; `names` are those of the usual type and of the others.
    pub(crate) fn facts(&self, names: [&'static str; 2]) -> Vec<(&'static str, String)> {
        let mut all = vec![(names[0], self.usual.name().to_owned())];
        if !self.others.is_empty() {
            let others: BTreeMap<&str, &str> =
                self.others.iter().map(|(name, element)| (name.as_str(), element.name())).collect();
            let others = serde_json::to_string(&others).expect("a map from text to text is JSON");
            all.push((names[1], others));
        }
        all
    }

    /// Returns the types that the facts of a checkpoint state; `usual` without such facts.
    ///
    /// # Errors
    /// A fact is damaged, or names an unknown type.
    pub(crate) fn of(checkpoint: &Checkpoint, names: [&'static str; 2], usual: Element) -> Result<Self> {
        let given = checkpoint.facts();
        let wrong = |fact: &str, why: String| {
            failure(
                format!("`{}` has the fact `{fact}` {why}", checkpoint.dir().display()),
                "import the model again",
            )
        };
        let named = |fact: &str, name: &str| {
            Element::of(name).ok_or_else(|| wrong(fact, format!("with the unknown element type `{name}`")))
        };
        let usual = given.get(names[0]).map_or(Ok(usual), |name| named(names[0], name))?;
        let others: BTreeMap<String, String> = match given.get(names[1]) {
            Some(text) => serde_json::from_str(text)
                .map_err(|e| wrong(names[1], format!("that cannot be read: {e}")))?,
            None => BTreeMap::new(),
        };
        let others = others.into_iter().map(|(array, name)| Ok((array, named(names[1], &name)?)));
        Ok(Self { usual, others: others.collect::<Result<_>>()? })
    }

    /// Returns the type of an array.
    pub(crate) fn get(&self, name: &str) -> Element {
        self.others.get(name).copied().unwrap_or(self.usual)
    }

    /// Returns the type of most arrays.
    pub(crate) fn usual(&self) -> Element {
        self.usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::checkpoint::{Facts, Writer};

    const NAMES: [&str; 2] = ["one", "many"];

    /// Returns the types of a checkpoint with these facts.
    fn read(facts: &[(&str, &str)]) -> Result<ElementTypes> {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("checkpoint");
        let facts: Facts = facts.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Writer::create(&dir).unwrap().finish(facts, 0).unwrap();
        ElementTypes::of(&Checkpoint::open(&dir).unwrap(), NAMES, Element::F16)
    }

    #[test]
    fn types_that_are_written_are_read() {
        let kinds = [("a", Element::Bf16), ("b", Element::F64), ("c", Element::Bf16)];
        let kinds = kinds.into_iter().map(|(name, element)| (name.to_owned(), element)).collect();
        let types = ElementTypes::imported(kinds);
        assert_eq!(["a", "b", "c"].map(|n| types.get(n)), [Element::Bf16, Element::F32, Element::Bf16]);
        let facts = types.facts(NAMES);
        let facts: Vec<(&str, &str)> = facts.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(facts, [("one", "BF16"), ("many", r#"{"b":"F32"}"#)]);
        assert_eq!(read(&facts).unwrap(), types);
        assert_eq!(read(&[]).unwrap().get("a"), Element::F16, "there are no facts");
    }

    /// Checks the error for these facts.
    #[track_caller]
    fn refused(facts: &[(&str, &str)], expect: &str) {
        let error = read(facts).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}\ndoes not say\n{expect}");
    }

    #[test]
    fn unknown_types_are_refused() {
        refused(&[("one", "F8")], "has the fact `one` with the unknown element type `F8`");
        refused(&[("many", r#"{"a":"F8"}"#)], "has the fact `many` with the unknown element type `F8`");
        refused(&[("many", "[")], "has the fact `many` that cannot be read");
    }
}
