//! Differences between the reports of two programs, and locks: the costs of a program as text, for a check in
//! CI that a change does not make it slower or larger.
//!
//! A lock has one fact a line. It names no source lines, so that edits that move code do not change it.

use crate::{CollectiveUse, Report, saturating::sum};
use std::{collections::BTreeMap, fmt};

/// The first line of a lock.
const HEAD: &str = "# Costs of a program, per device and step. `meshc report --lock FILE` compares them.";

/// The costs of the functions of a program, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Costs {
    /// From a fact such as `train_step flops` to its value.
    facts: BTreeMap<String, String>,
    /// Lines of the model that cause a fact.
    sources: BTreeMap<String, Vec<String>>,
}

impl Costs {
    /// Collects the costs of reports on the functions of one program.
    pub fn of(reports: &[Report]) -> Self {
        let mut costs = Self::default();
        for report in reports {
            costs.facts.insert("mesh".into(), report.mesh.clone());
            costs.facts.insert("parameters".into(), report.parameters.to_string());
            let memory = &report.peak_bytes_per_device;
            let numbers = [
                ("flops", report.flops_per_device),
                ("bytes state", sum([memory.parameters, memory.slots, memory.counters])),
                ("bytes activations", memory.activations),
                ("bytes peak", memory.total),
            ];
            for (what, number) in numbers {
                costs.facts.insert(format!("{} {what}", report.function), number.to_string());
            }
            costs.add_collectives(report);
        }
        costs
    }

    fn add_collectives(&mut self, report: &Report) {
        let mut runs: BTreeMap<String, u64> = BTreeMap::new();
        for used in &report.collectives {
            let CollectiveUse { kind, axes, dtype, bytes, wire_bytes, count, direction, source } = used;
            let axes = axes.join("+");
            let key = format!(
                "{} {kind} {axes} {dtype} {bytes} bytes, {wire_bytes} sent, {direction}",
                report.function
            );
            *runs.entry(key.clone()).or_default() += count;
            let sources = self.sources.entry(key).or_default();
            if !sources.contains(source) {
                sources.push(source.clone());
            }
        }
        self.facts.extend(runs.into_iter().map(|(key, count)| (key, count.to_string())));
    }

    /// Returns the lock.
    pub fn lock(&self) -> String {
        let lines: String = self.facts.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
        format!("{HEAD}\n{lines}")
    }

    /// Parses a lock. The error has the number of the first line that is none, from 1.
    pub fn parse(lock: &str) -> Result<Self, usize> {
        let mut costs = Self::default();
        for (number, line) in
            (1usize..).zip(lock.lines()).filter(|(_, l)| !l.is_empty() && !l.starts_with('#'))
        {
            // The value of a mesh may be empty.
            let (key, value) = line.rsplit_once(':').ok_or(number)?;
            costs.facts.insert(key.to_owned(), value.trim().to_owned());
        }
        Ok(costs)
    }

    /// Returns what changes from `self` to `new`; empty if nothing does.
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let keys: Vec<&String> =
            self.facts.keys().chain(new.facts.keys().filter(|key| !self.facts.contains_key(*key))).collect();
        let mut changes: Vec<Change> = keys
            .into_iter()
            .map(|key| Change {
                what: key.clone(),
                before: self.facts.get(key).cloned(),
                after: new.facts.get(key).cloned(),
                sources: new.sources.get(key).or(self.sources.get(key)).cloned().unwrap_or_default(),
            })
            .filter(|change| change.before != change.after)
            .collect();
        changes.sort_by(|a, b| a.what.cmp(&b.what));
        changes
    }
}

/// A fact that differs.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Change {
    /// The fact, such as `train_step bytes peak`.
    pub what: String,
    /// The value before. `None` for a new fact.
    pub before: Option<String>,
    /// The value after. `None` for a fact that is gone.
    pub after: Option<String>,
    /// The lines of the model that cause it; empty if they are not known.
    pub sources: Vec<String>,
}

impl fmt::Display for Change {
    /// `- what: 1` and `+ what: 2`, with the change in percent and the lines of the model.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, before, after, sources } = self;
        if let Some(before) = before {
            writeln!(f, "- {what}: {before}")?;
        }
        if let Some(after) = after {
            write!(f, "+ {what}: {after}")?;
            let number = |text: &Option<String>| text.as_ref()?.parse::<f64>().ok();
            if let (Some(old), Some(new)) = (number(before).filter(|old| *old > 0.0), number(&self.after)) {
                write!(f, " ({:+.1} %)", (new / old - 1.0) * 100.0)?;
            }
            writeln!(f)?;
        }
        sources.iter().try_for_each(|source| writeln!(f, "    at {source}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Direction;

    fn report(flops: u64, collectives: &[(&str, u64, u64, &str)]) -> Report {
        let collectives = collectives.iter().map(|(kind, bytes, count, source)| CollectiveUse {
            kind: (*kind).into(),
            axes: vec!["data".into()],
            dtype: "f32".into(),
            bytes: *bytes,
            wire_bytes: *bytes,
            count: *count,
            direction: Direction::Forward,
            source: (*source).into(),
        });
        let module = mesh::text::parse(
            "module m\nstate param w: f32[a=4]\n\nfunc train_step() {\n  return\n}\n",
            "m.mesh",
        );
        let mut report =
            crate::report(&module.expect("the program is valid"), None).expect("it has a function");
        report.flops_per_device = flops;
        report.collectives = collectives.collect();
        report
    }

    #[test]
    fn a_lock_has_every_fact_and_changes_name_the_line_of_the_model() {
        let old =
            Costs::of(&[report(100, &[("all_reduce", 64, 1, "m.rs:3"), ("all_reduce", 64, 2, "m.rs:4")])]);
        let lock = old.lock();
        for line in [
            "mesh: ",
            "parameters: 4",
            "train_step flops: 100",
            "train_step bytes state: 16",
            "train_step all_reduce data f32 64 bytes, 64 sent, forward: 3",
        ] {
            assert!(lock.lines().any(|l| l == line), "`{line}` is not in:\n{lock}");
        }
        let parsed = Costs::parse(&lock).unwrap();
        assert_eq!((parsed.lock(), parsed.changes(&old)), (lock, Vec::new()));
        assert_eq!(Costs::parse("# x\nflops\n"), Err(2));

        let new =
            Costs::of(&[report(150, &[("all_reduce", 64, 3, "m.rs:9"), ("all_gather", 8, 1, "m.rs:7")])]);
        let text: String = parsed.changes(&new).iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            "+ train_step all_gather data f32 8 bytes, 8 sent, forward: 1\n    at m.rs:7\n\
             - train_step flops: 100\n+ train_step flops: 150 (+50.0 %)\n"
        );
    }
}
