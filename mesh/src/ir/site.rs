//! Sites: the line of the model, scope and direction that an instruction comes from.

use crate::Name;
use std::{ops::Deref, sync::Arc};

/// The half of a step that an instruction belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Phase {
    /// The forward half: instructions of the model.
    #[default]
    Forward,
    /// The backward half: cotangents and recomputation, which autodiff adds.
    Backward,
}

/// A place in a model. Cloning is cheap. Instructions that a pass creates carry the site of their cause.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Site(Arc<SiteData>);

/// The parts of a [`Site`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SiteData {
    /// Source file, as rustc names it.
    pub file: Name,
    /// Line, from 1; 0 when unknown.
    pub line: u32,
    /// Column, from 1; 0 when unknown.
    pub column: u32,
    /// Scope path such as `encoder/layers/ffn`; empty at the top.
    pub scope: Name,
    /// Direction.
    pub phase: Phase,
}

impl Default for SiteData {
    fn default() -> Self {
        Self { file: "".into(), line: 0, column: 0, scope: "".into(), phase: Phase::Forward }
    }
}

impl Site {
    /// Creates a site in the forward half.
    pub fn new(file: impl Into<Name>, line: u32, column: u32, scope: impl Into<Name>) -> Self {
        Self(Arc::new(SiteData {
            file: file.into(),
            line,
            column,
            scope: scope.into(),
            phase: Phase::Forward,
        }))
    }
    /// Returns the same place in direction `phase`.
    pub fn in_phase(&self, phase: Phase) -> Self {
        if self.phase == phase {
            self.clone()
        } else {
            Self(Arc::new(SiteData { phase, ..(*self.0).clone() }))
        }
    }
}

impl Deref for Site {
    type Target = SiteData;
    fn deref(&self) -> &SiteData {
        &self.0
    }
}
