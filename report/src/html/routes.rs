//! The page about the routing of tokens.

use crate::{
    routes::{Coactivation, Expert, LayerRoutes, Lift, Routes},
    table::percent,
};
use page::{
    bars::bars,
    html::{document, escape, section, table},
};
use std::fmt::Write;

/// Experts that have a line in the table of a layer; of more, those with the highest scores are shown.
const EXPERTS: usize = 64;
/// The largest number of experts of a heat map, and of a chart of loads.
const SQUARES: usize = 64;

/// The page.
pub fn page(routes: &Routes) -> String {
    let mut html = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        html,
        "<h1>Routing: {}</h1><p class=\"note\">{}; {}</p>",
        escape(&routes.program),
        escape(&routes.checkpoint),
        escape(&routes.sample())
    );
    html += &layers(routes);
    html += &what_if(routes);
    html += &pairs(routes);
    for layer in &routes.layers {
        html += &of_layer(routes, layer);
    }
    document(&format!("Routing: {}", routes.program), &html)
}

fn layers(routes: &Routes) -> String {
    let numbers = |list: &[usize]| match list {
        [] => "none".to_owned(),
        list if list.len() > 12 => format!("{} of them", list.len()),
        list => list.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    };
    let row = |layer: &LayerRoutes| {
        let dropped = percent(layer.dropped_tokens as f64 / layer.tokens.max(1) as f64);
        let entropy = format!("{:.3} of {:.3}", layer.entropy, layer.largest_entropy);
        let own = [layer.name(), layer.tokens.to_string(), layer.experts.len().to_string(), dropped, entropy];
        let lists = [numbers(&layer.dead), numbers(&layer.overloaded)];
        own.into_iter().chain(lists).chain(layer.information.all().map(|x| format!("{x:.3}"))).collect()
    };
    let heads = [
        "layer",
        "tokens",
        "experts",
        "dropped",
        "entropy of load",
        "dead",
        "overloaded",
        "piece",
        "word",
        "position",
        "text",
    ];
    let note = "Entropy is in nats. An overloaded expert has at least twice an even load. The last four columns say how \
                much a property of a token tells about its expert, from 0 (nothing) to 1 (all of it).";
    section("Layers", note, &table(&heads, "lrrrrllrrrr", routes.layers.iter().map(row)))
}

fn what_if(routes: &Routes) -> String {
    let rows = routes.layers.iter().flat_map(|layer| {
        layer.what_if.iter().map(|x| {
            let dropped = percent(x.dropped_tokens as f64 / layer.tokens.max(1) as f64);
            let numbers = [x.capacity.to_string(), x.dropped_tokens.to_string(), dropped];
            [vec![layer.name(), x.capacity_factor.to_string()], numbers.into()].concat()
        })
    });
    let heads = ["layer", "capacity factor", "expert slots of a group", "would drop", "share"];
    let mut reasons: Vec<&str> = routes.layers.iter().filter_map(|l| l.no_what_if.as_deref()).collect();
    reasons.dedup();
    let note = "Drops with other capacity factors, by assigning expert slots to the recorded choices again. Choices of \
                later layers are those of this run.";
    let reasons: String = reasons.iter().map(|r| format!("<p class=\"note\">{}</p>", escape(r))).collect();
    section("Other capacities", note, &(table(&heads, "lrrrr", rows) + &reasons))
}

fn pairs(routes: &Routes) -> String {
    let mut html = String::new();
    for pair in &routes.coactivation {
        let [a, b] = pair.layers.map(|layer| &routes.layers[layer]);
        let information = pair
            .information
            .map_or("one layer uses one expert".to_owned(), |x| format!("information {x:.3}"));
        let _ = write!(
            html,
            "<figure><figcaption>{} (down) and {} (across): {information}</figcaption>{}</figure>",
            escape(&a.name()),
            escape(&b.name()),
            heat(pair, [a.experts.len(), b.experts.len()])
        );
    }
    let html = if html.is_empty() { html } else { format!("<div class=\"grids\">{html}</div>") };
    let note = "Tokens by their experts in two layers of a stack: darker squares are more tokens of the row's expert. \
                Information is that of one expert about the other, from 0 to 1.";
    section("Co-activation", note, &html)
}

/// A square for each pair of experts, or a table of the most frequent pairs of many experts.
fn heat(pair: &Coactivation, [down, across]: [usize; 2]) -> String {
    if down.max(across) > SQUARES {
        let rows = pair
            .pairs
            .iter()
            .take(12)
            .map(|(a, b, n)| [*a as u64, *b as u64, *n].map(|x| x.to_string()).to_vec());
        return table(&["expert", "and expert", "tokens"], "rrr", rows);
    }
    let mut sums = vec![0u64; down];
    pair.pairs.iter().for_each(|(a, _, n)| sums[*a as usize] += n);
    let side = (320 / across.max(1)).clamp(5, 28);
    let mut svg = String::new();
    for (a, b, n) in &pair.pairs {
        let share = *n as f64 / sums[*a as usize].max(1) as f64;
        let _ = write!(
            svg,
            "<rect x=\"{}\" y=\"{}\" width=\"{side}\" height=\"{side}\" fill=\"#2f6db5\" fill-opacity=\"{share:.3}\">\
             <title>{a} and {b}: {n} tokens, {} of expert {a}</title></rect>",
            *b as usize * side,
            *a as usize * side,
            percent(share)
        );
    }
    let (width, height) = (across * side, down * side);
    format!(
        "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">\
         <rect class=\"grid\" width=\"{width}\" height=\"{height}\" fill=\"none\"/>{svg}</svg>"
    )
}

fn of_layer(routes: &Routes, layer: &LayerRoutes) -> String {
    let note = format!(
        "{} expert slots of each expert for a group of {} tokens. Specialization is the divergence of an expert's pieces \
         from those of all tokens, from 0 to 1; a lift of 3 means that the expert gets the piece three times as often as \
         other pieces.",
        layer.capacity, layer.group_tokens
    );
    let shown = layer.shown(EXPERTS);
    let of_all = if shown.len() < layer.experts.len() {
        format!("<p class=\"note\">The {EXPERTS} experts with the highest specialization.</p>")
    } else {
        String::new()
    };
    let heads =
        ["expert", "load", "dropped", "gate", "special.", "pieces (lift)", "words", "positions", "texts"];
    let experts = table(&heads, "rrrrrllll", shown.into_iter().map(row));
    let contents = [loads(layer), of_all, experts, texts(routes, layer)].concat();
    section(&escape(&layer.name()), &note, &contents)
}

fn row((number, expert): (usize, &Expert)) -> Vec<String> {
    let lifts = |all: &[Lift]| {
        all.iter().map(|l| format!("{} ({:.1})", l.what, l.lift)).collect::<Vec<_>>().join(", ")
    };
    let own = [
        number.to_string(),
        percent(expert.load),
        percent(expert.dropped as f64 / expert.tokens.max(1) as f64),
        format!("{:.2}", expert.gate),
        format!("{:.3}", expert.scores.piece),
    ];
    own.into_iter().chain(expert.highest.all().map(|all| lifts(all))).collect()
}

fn loads(layer: &LayerRoutes) -> String {
    if layer.experts.len() > SQUARES {
        return String::new();
    }
    let rows: Vec<(String, Vec<f64>)> =
        layer.experts.iter().enumerate().map(|(i, e)| (format!("expert {i}"), vec![e.load])).collect();
    format!("<figure><figcaption>Load</figcaption>{}</figure>", bars(&rows, percent))
}

/// The share of each text's tokens that each expert gets, if there are several texts.
fn texts(routes: &Routes, layer: &LayerRoutes) -> String {
    if routes.texts.len() < 2 || layer.experts.len() > SQUARES {
        return String::new();
    }
    let numbers: Vec<String> = (0..layer.experts.len()).map(|e| e.to_string()).collect();
    let heads: Vec<&str> =
        ["text", "tokens", "dropped"].into_iter().chain(numbers.iter().map(String::as_str)).collect();
    let rows = routes.texts.iter().zip(&layer.texts).map(|(name, text)| {
        let dropped = percent(text.dropped as f64 / text.tokens.max(1) as f64);
        let own = [name.clone(), text.tokens.to_string(), dropped];
        own.into_iter().chain(text.load.iter().map(|load| percent(*load))).collect()
    });
    let align = format!("l{}", "r".repeat(heads.len() - 1));
    format!("<p class=\"note\">Load of the experts by text</p>{}", table(&heads, &align, rows))
}
