//! Tables of routing for a terminal.

use super::summary::{Expert, LayerRoutes, Routes};
use crate::table::{percent, table};
use std::fmt;

/// Experts that have a line in the table of a layer; of more, those with the highest scores are shown.
const EXPERTS: usize = 16;
/// Values of a property in a cell.
const SHOWN: usize = 5;
/// Most frequent pairs of experts of two layers in a cell.
const PAIRS: usize = 3;

impl fmt::Display for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {}: {}", self.program, self.checkpoint, self.sample())?;
        writeln!(f)?;
        let heads = [
            "layer",
            "tokens",
            "dropped",
            "entropy",
            "dead",
            "overloaded",
            "piece",
            "word",
            "position",
            "text",
        ];
        let rows: Vec<_> = self.layers.iter().map(LayerRoutes::row).collect();
        table(f, &heads, "<>>>>>>>>>", &rows)?;
        for layer in &self.layers {
            writeln!(f, "{}: {} experts", layer.name(), layer.experts.len())?;
            layer.experts_table(f)?;
        }
        self.texts_table(f)?;
        self.pairs_table(f)?;
        self.what_if_table(f)
    }
}

impl Routes {
    /// Describes the rows that were observed.
    pub fn sample(&self) -> String {
        match self.rows < self.all_rows {
            true => format!("a sample of {} of {} rows", self.rows, self.all_rows),
            false => format!("{} rows", self.rows),
        }
    }

    fn texts_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.texts.len() < 2 {
            return Ok(());
        }
        let mut rows = Vec::new();
        for layer in &self.layers {
            for (name, text) in self.texts.iter().zip(&layer.texts) {
                let mut order: Vec<usize> = (0..text.load.len()).collect();
                order.sort_by(|a, b| text.load[*b].total_cmp(&text.load[*a]));
                let most = order.iter().take(SHOWN).filter(|e| text.load[**e] > 0.0);
                let most: Vec<String> = most.map(|e| format!("{e}: {}", percent(text.load[*e]))).collect();
                let dropped = percent(text.dropped as f64 / text.tokens.max(1) as f64);
                rows.push(vec![
                    layer.name(),
                    name.clone(),
                    text.tokens.to_string(),
                    dropped,
                    most.join("  "),
                ]);
            }
        }
        table(f, &["layer", "text", "tokens", "dropped", "experts with most of its tokens"], "<<>><", &rows)
    }

    fn pairs_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |pair: &super::Coactivation| {
            let most = pair.pairs.iter().take(PAIRS).map(|(a, b, n)| format!("{a}→{b}: {n}"));
            let information = pair.information.map_or("—".to_owned(), |x| format!("{x:.3}"));
            let [a, b] = pair.layers.map(|layer| self.layers[layer].name());
            vec![a, b, information, most.collect::<Vec<_>>().join("  ")]
        };
        let rows: Vec<_> = self.coactivation.iter().map(row).collect();
        table(f, &["layer", "and layer", "information", "most frequent pairs of experts"], "<<><", &rows)
    }

    fn what_if_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = Vec::new();
        for layer in &self.layers {
            for x in &layer.what_if {
                let dropped = percent(x.dropped_tokens as f64 / layer.tokens.max(1) as f64);
                let numbers = [x.capacity.to_string(), x.dropped_tokens.to_string(), dropped];
                rows.push([vec![layer.name(), x.capacity_factor.to_string()], numbers.into()].concat());
            }
            if let Some(reason) = &layer.no_what_if {
                writeln!(f, "{}: no other capacities: {reason}", layer.name())?;
            }
        }
        table(f, &["layer", "capacity factor", "slots", "would drop", "share"], "<>>>>", &rows)
    }
}

impl LayerRoutes {
    fn row(&self) -> Vec<String> {
        let dropped = percent(self.dropped_tokens as f64 / self.tokens.max(1) as f64);
        let entropy = format!("{:.3} of {:.3}", self.entropy, self.largest_entropy);
        let own = [self.name(), self.tokens.to_string(), dropped, entropy];
        let lists = [&self.dead, &self.overloaded].map(|list| list.len().to_string());
        let information = self.information.all().map(|x| format!("{x:.3}"));
        own.into_iter().chain(lists).chain(information).collect()
    }

    /// Returns the experts to show, with their numbers.
    pub(crate) fn shown(&self, most: usize) -> Vec<(usize, &Expert)> {
        let mut all: Vec<(usize, &Expert)> = self.experts.iter().enumerate().collect();
        if all.len() > most {
            all.sort_by(|a, b| b.1.scores.piece.total_cmp(&a.1.scores.piece).then(a.0.cmp(&b.0)));
            all.truncate(most);
        }
        all
    }

    fn experts_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Experts of several sizes have columns for them.
        let size = |e: &Expert| (e.d_ff, e.capacity);
        let differ = self.experts.windows(2).any(|pair| size(&pair[0]) != size(&pair[1]));
        let row = |(number, expert): &(usize, &Expert)| {
            let chosen = expert.tokens.max(1) as f64;
            let lifts = |all: &[crate::routes::Lift]| {
                all.iter().take(SHOWN).map(|lift| lift.what.clone()).collect::<Vec<_>>().join(" ")
            };
            let sizes = [expert.d_ff, expert.capacity].map(|n| n.to_string());
            let first = std::iter::once(number.to_string()).chain(sizes.into_iter().filter(|_| differ));
            let rest = [
                percent(expert.load),
                percent(expert.dropped as f64 / chosen),
                format!("{:.2}", expert.gate),
                format!("{:.3}", expert.scores.piece),
                lifts(&expert.highest.piece),
                lifts(&expert.highest.word),
            ];
            first.chain(rest).collect()
        };
        let shown = self.shown(EXPERTS);
        if shown.len() < self.experts.len() {
            writeln!(f, "the {EXPERTS} with the highest specialization")?;
        }
        let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
        let sizes = ["d_ff", "slots"].into_iter().filter(|_| differ);
        let rest = ["load", "dropped", "gate", "specialization", "pieces of highest lift", "words"];
        let heads: Vec<&str> = std::iter::once("expert").chain(sizes).chain(rest).collect();
        table(f, &heads, if differ { ">>>>>>><<" } else { ">>>>><<" }, &rows)
    }
}
