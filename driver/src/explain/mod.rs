//! Explanations of the labels of mistakes, such as `contract_c1`: the rule, an example that breaks it, and
//! the way out.
//!
//! The rule is the sentence of `docs/ir.md`, and the example is the filetest of the label, so that neither is
//! written twice; the remedies are in `rules`. `docs/errors.md` is [`page()`].

mod rules;

use crate::failure::failure;
use anyhow::Result;
use mesh::layout::suggest;
use rules::{RULES, Rule};

/// The specification, which declares each label once.
const SPEC: &str = include_str!("../../../docs/ir.md");
/// The most lines of an example that are shown.
const LINES: usize = 24;

/// Returns all labels in the order of the specification.
pub fn labels() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.label)
}

/// Returns the explanation of a label as Markdown.
///
/// # Errors
/// There is no such label.
pub fn explain(label: &str) -> Result<String> {
    let rule = RULES.iter().find(|rule| rule.label == label).ok_or_else(|| {
        let help = match suggest(label, labels()) {
            Some(near) => format!("did you mean `{near}`? `meshc explain` lists all labels"),
            None => {
                "a label is in brackets after the word `error`; `meshc explain` lists all labels".to_owned()
            }
        };
        failure(format!("there is no error label `{label}`"), help)
    })?;
    Ok(rule.text())
}

/// Returns a line for each label: the label and its rule.
pub fn index() -> String {
    let width = labels().map(str::len).max().unwrap_or(0);
    RULES.iter().map(|rule| format!("{:width$}  {}\n", rule.label, rule.cause())).collect()
}

/// Returns the page with all explanations.
pub fn page() -> String {
    let mut text = "# Error index\n\n\
        An error in a program has the label of the rule that it breaks: `error[contract_c1]: …`.\n\
        `meshc explain LABEL` prints the section of a label, and `meshc explain` lists all labels.\n\
        [ir.md](ir.md) is the specification that declares the rules.\n\
        The examples are `.mesh` text: `// error:` ends each line that breaks the rule, and repeats the message.\n\n\
        A test writes this page from the specification, the filetests and the remedies in `driver/src/explain`.\n"
        .to_owned();
    RULES.iter().for_each(|rule| text += &format!("\n## {}", rule.text()));
    text
}

impl Rule {
    /// Returns the sentence of the specification; empty if it does not declare the label.
    fn cause(&self) -> &'static str {
        let item = format!("- `{}`: ", self.label);
        SPEC.lines().find_map(|line| line.trim_start().strip_prefix(&item)).unwrap_or_default()
    }

    /// Returns the program that breaks the rule, without the lines for the test.
    fn example(&self) -> String {
        let lines = self.filetest.lines().skip_while(|line| line.starts_with("//") || line.trim().is_empty());
        let lines: Vec<&str> = lines.collect();
        if lines.len() <= LINES {
            return lines.iter().map(|line| format!("{line}\n")).collect();
        }
        // The beginning, and the line of the mistake.
        let label = format!("[{}]", self.label);
        let mistake = lines.iter().find(|line| line.contains(&label)).copied().unwrap_or_default();
        let shown = lines.iter().take(LINES / 4).chain([&"  …", &mistake, &"  …"]);
        shown.map(|line| format!("{line}\n")).collect()
    }

    fn text(&self) -> String {
        format!(
            "{}\n\n{}\n\n```text\n{}```\n\nWay out: {}\n",
            self.label,
            self.cause(),
            self.example(),
            self.way_out
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_of_the_specification_has_cause_example_and_way_out() {
        let is_label = |text: &&str| {
            text.rsplit_once('_').is_some_and(|(_, rule)| rule.len() > 1 && rule[1..].parse::<u8>().is_ok())
        };
        let items = SPEC.lines().filter_map(|line| line.trim_start().strip_prefix("- `")?.split_once("`: "));
        let declared: Vec<&str> = items.map(|(label, _)| label).filter(is_label).collect();
        assert_eq!(labels().collect::<Vec<_>>(), declared);
        for rule in &RULES {
            assert!(!rule.cause().is_empty() && rule.way_out.ends_with('.'), "{}", rule.label);
            assert!(rule.example().contains(&format!("[{}]", rule.label)), "{}", rule.label);
        }
    }

    #[test]
    fn the_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
        if std::env::var_os("MESH_BLESS").is_some_and(|v| v == "1") {
            std::fs::write(path, page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == page(), "docs/errors.md is stale: write it with MESH_BLESS=1");
    }

    #[test]
    fn a_label_is_explained_and_a_wrong_one_is_corrected() {
        let text = explain("contract_c1").unwrap();
        for part in
            ["Both operands have the same element type, a number.", "einsum of f32 and bf16", "Way out: Cast"]
        {
            assert!(text.contains(part), "`{part}` is not in {text}");
        }
        assert!(index().contains("contract_c1") && index().lines().count() == RULES.len());
        let error = explain("contract_c").unwrap_err().to_string();
        assert!(error.contains("did you mean `contract_c"), "{error}");
        assert!(explain("x").unwrap_err().to_string().contains("lists all labels"));
    }
}
