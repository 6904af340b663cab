//! The data that a program shares with its functions under construction: state, mistakes, open scopes.

use super::{caller::caller, init::Init};
use crate::{Diagnostic, Env, Name, Site};
use std::{cell::RefCell, panic::Location};

/// Help for a name that is not a word.
pub(super) const WORD: &str = "use a letter or `_`, then letters, digits, `_`, `.`, `-` and `/`";

/// The data that a program shares with its functions under construction.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) env: RefCell<Env>,
    pub(super) inits: RefCell<Vec<Init>>,
    pub(super) diagnostics: RefCell<Vec<Diagnostic>>,
    path: RefCell<Vec<Name>>,
}

impl Shared {
    /// Records a mistake. The same mistake at the same line is recorded once, even if several functions (such
    /// as a training and an evaluation step) execute that line.
    pub(super) fn note(&self, diagnostic: Diagnostic) {
        let same = |d: &Diagnostic| {
            d.label == diagnostic.label && d.message == diagnostic.message && d.site == diagnostic.site
        };
        let mut all = self.diagnostics.borrow_mut();
        if !all.iter().any(same) {
            let caller = diagnostic.site.as_ref().and_then(caller);
            all.push(Diagnostic { caller, ..diagnostic });
        }
    }

    /// The names of the open scopes, joined by `/`.
    pub(super) fn scope(&self) -> String {
        self.path.borrow().iter().map(|n| n.as_str()).collect::<Vec<_>>().join("/")
    }

    /// The site of `location` in the open scopes.
    pub(super) fn site(&self, location: &Location<'_>) -> Site {
        Site::new(location.file(), location.line(), location.column(), self.scope())
    }

    /// Runs `f` in an inner scope.
    pub(super) fn scoped<T>(&self, name: Name, f: impl FnOnce() -> T) -> T {
        self.path.borrow_mut().push(name);
        let result = f();
        self.path.borrow_mut().pop();
        result
    }
}
