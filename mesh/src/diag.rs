//! Diagnostics: a mistake in a program, its place, and what to do about it.

use crate::Site;
use std::fmt;

/// One mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// The label of the broken rule in `docs/ir.md`, such as `contract_c2`; empty for text errors.
    pub label: &'static str,
    /// The mistake in one sentence, with names and numbers.
    pub message: String,
    /// The place in the model or in the `.mesh` text that caused it.
    pub site: Option<Site>,
    /// The line of the model that called the library code at `site`; `None` if `site` is in the model, or if
    /// it is not known.
    pub caller: Option<Site>,
    /// The function of the program that contains it, if known.
    pub function: Option<String>,
    /// The remedy: the legal alternatives.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Creates a mistake that breaks rule `label`.
    pub fn new(label: &'static str, message: impl Into<String>) -> Self {
        Self { label, message: message.into(), site: None, caller: None, function: None, help: None }
    }
    /// Adds the remedy.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
    /// Sets the place, if it has none yet.
    pub fn at(mut self, site: &Site) -> Self {
        self.site.get_or_insert_with(|| site.clone());
        self
    }
    /// Sets the function, if it has none yet.
    pub fn in_function(mut self, name: &str) -> Self {
        self.function.get_or_insert_with(|| name.to_owned());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(site) = &self.site {
            write!(f, "{}:{}:{}: ", site.file, site.line, site.column)?;
        }
        write!(f, "error")?;
        if !self.label.is_empty() {
            write!(f, "[{}]", self.label)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(function) = &self.function {
            write!(f, " (in `{function}`)")?;
        }
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// All mistakes of a program, in the order in which they were found. Never empty in an error.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.0.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
impl std::error::Error for Diagnostic {}

impl From<Diagnostic> for Diagnostics {
    fn from(d: Diagnostic) -> Self {
        Self(vec![d])
    }
}
