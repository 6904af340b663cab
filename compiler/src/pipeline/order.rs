//! The order: all stages, and every pass of each.

use crate::{
    autodiff,
    partition::peephole::{self, Peephole},
    simplify,
};
use mesh::{Diagnostics, Module};

/// The stages, in order. A name's first word is the folder of the stage's code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    /// Checks the program against the rules of the language.
    Verify,
    /// Makes loop bodies small before they are differentiated, and moves loop-invariant code out of loops.
    Simplify,
    /// Replaces requests for gradients by the instructions that compute them.
    Autodiff,
    /// Makes the program with its gradients small, and what its loops stack narrow.
    SimplifyGradients,
    /// Replaces whole tensors by the shards of one device, with explicit collectives.
    Partition,
    /// Makes the program of one device small.
    SimplifyLocal,
    /// Emits one HLO module per function, and the manifest.
    Hlo,
}

/// Every pass of every stage, in the order in which they run.
const ORDER: [(Stage, &[Group]); 7] = [
    (Stage::Verify, &[]),
    (Stage::Simplify, &[Group::Repeat(&[FOLD, CSE, HOIST, DCE])]),
    (Stage::Autodiff, &[Group::Once(AUTODIFF)]),
    (Stage::SimplifyGradients, &[Group::Once(NARROW), Group::Repeat(&[FOLD, CSE, HOIST, DCE])]),
    (Stage::Partition, &[Group::Once(PARTITION), Group::Once(PEEPHOLE)]),
    (
        Stage::SimplifyLocal,
        // Nothing leaves a loop here: partitioning has decided where collectives stand.
        &[
            Group::Repeat(&[FOLD, CSE, DCE]),
            Group::Once(SLICES),
            Group::Once(ACCUMULATE),
            Group::Once(ROW_SUMS),
            Group::Once(DCE),
        ],
    ),
    (Stage::Hlo, &[]),
];

const FOLD: Pass = Pass {
    name: "fold",
    what: "evaluates arithmetic on constants and removes operations that do nothing",
    run: Run::Rewrite(simplify::fold::run),
};
const CSE: Pass = Pass {
    name: "cse",
    what: "merges instructions that compute the same value",
    run: Run::Rewrite(simplify::cse::run),
};
const HOIST: Pass = Pass {
    name: "hoist",
    what: "moves loop-invariant instructions out of loops",
    run: Run::Rewrite(simplify::hoist::run),
};
const DCE: Pass = Pass {
    name: "dce",
    what: "removes unused instructions, results, carries and captures, and renumbers values",
    run: Run::Rewrite(simplify::dce::run),
};
const AUTODIFF: Pass = Pass {
    name: "autodiff",
    what: "replaces each request for a gradient by a reverse sweep",
    run: Run::Expand(autodiff::expand),
};
const NARROW: Pass = Pass {
    name: "narrow",
    what: "stacks loop results before the cast that widens them, and casts sliced parameters before the loop",
    run: Run::Rewrite(simplify::narrow::run),
};
const PARTITION: Pass = Pass {
    name: "partition",
    what: "makes each instruction work on shards and inserts the collectives it needs",
    run: Run::Partition,
};
const PEEPHOLE: Pass = Pass {
    name: "peephole",
    what: "improves collectives with local rewrites, until none applies",
    run: Run::Peepholes(&PEEPHOLES),
};
const SLICES: Pass = Pass {
    name: "slices",
    what: "casts parameters that need no gather inside the loops that slice them",
    run: Run::Rewrite(simplify::slices::run),
};
const ACCUMULATE: Pass = Pass {
    name: "accumulate",
    what: "sums over iterations inside the loop that computes the terms",
    run: Run::Rewrite(simplify::accumulate::run),
};
const ROW_SUMS: Pass = Pass {
    name: "row_sums",
    what: "computes sums over rows as one more column of a product of the same operand",
    run: Run::Rewrite(simplify::row_sums::run),
};

/// The rewrites of the pass `peephole`, in the order in which they are tried at each instruction.
pub(crate) const PEEPHOLES: [Peephole; 4] = [
    // Removes a pair of collectives of which the second undoes the first.
    peephole::cancel::run,
    // Replaces an all-reduce of which each device uses a part by a reduce-scatter.
    peephole::scatter::run,
    // Adds two pending sums first and reduces them once.
    peephole::merge::run,
    // Moves an all-reduce behind a linear operation that shrinks its operand.
    peephole::sink::run,
];

/// The most rounds of a [`Group::Repeat`]. A program that still changes then is correct, only not the
/// smallest.
const ROUNDS: usize = 16;

/// A pass: a function from program to program.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// The name, which is that of its file.
    pub name: &'static str,
    /// Its effect, as one sentence.
    pub what: &'static str,
    pub(super) run: Run,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Run {
    /// Rewrites the module; returns true if anything changed.
    Rewrite(fn(&mut Module) -> bool),
    /// Returns a new Global module.
    Expand(fn(&Module) -> Result<Module, Diagnostics>),
    /// Goes from Global to Local under a layout.
    Partition,
    /// Applies rewrites of collectives to a Local module.
    Peepholes(&'static [Peephole]),
}

/// Passes that run together.
#[derive(Clone, Copy, Debug)]
pub(super) enum Group {
    /// Runs once.
    Once(Pass),
    /// These run in turn until none of them changes the program, for at most [`ROUNDS`] rounds.
    Repeat(&'static [Pass]),
}

impl Group {
    /// The passes, and the most rounds in which they run.
    pub(super) fn passes(&self) -> (&[Pass], usize) {
        match self {
            Self::Once(pass) => (std::slice::from_ref(pass), 1),
            Self::Repeat(passes) => (passes, ROUNDS),
        }
    }
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 7] = [
        Self::Verify,
        Self::Simplify,
        Self::Autodiff,
        Self::SimplifyGradients,
        Self::Partition,
        Self::SimplifyLocal,
        Self::Hlo,
    ];

    /// The word for `--stop-after` and file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Simplify => "simplify",
            Self::Autodiff => "autodiff",
            Self::SimplifyGradients => "simplify-gradients",
            Self::Partition => "partition",
            Self::SimplifyLocal => "simplify-local",
            Self::Hlo => "hlo",
        }
    }

    /// The stage called `name`; the error lists all names.
    pub fn parse(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|s| s.name()).collect();
            format!("there is no stage `{name}`: the stages are {}", known.join(", "))
        })
    }

    /// The passes of the stage, in order, each once.
    pub fn passes(self) -> Vec<Pass> {
        let mut passes: Vec<Pass> = Vec::new();
        for pass in self.groups().iter().flat_map(|group| group.passes().0) {
            if passes.iter().all(|p| p.name != pass.name) {
                passes.push(*pass);
            }
        }
        passes
    }

    pub(super) fn groups(self) -> &'static [Group] {
        ORDER[self as usize].1
    }
}
