//! HTML documents: sections, tables, escaping, the stylesheet.

use crate::visible::visible;

/// Returns a whole document. `title` is plain text, `body` is HTML.
pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escape(title)
    )
}

/// Escapes text for an element or an attribute. Control characters become visible.
pub fn escape(text: &str) -> String {
    visible(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Renders a heading, a note and contents. Empty contents give an empty string. `note` and `contents` are
/// HTML.
pub fn section(title: &str, note: &str, contents: &str) -> String {
    match contents {
        "" => String::new(),
        _ => format!("<h2>{title}</h2><p class=\"note\">{note}</p><div class=\"wide\">{contents}</div>"),
    }
}

/// Renders a table of text, which scrolls if the window is narrower than its longest words. No rows give an
/// empty string. `align` has `l` or `r` for each column.
pub fn table(heads: &[&str], align: &str, rows: impl Iterator<Item = Vec<String>>) -> String {
    let cell = |tag: &str, (text, align): (&str, char)| {
        let class = if align == 'r' { " class=\"n\"" } else { "" };
        format!("<{tag}{class}>{}</{tag}>", escape(text))
    };
    let line = |tag: &str, cells: &[&str]| -> String {
        let cells: String = cells.iter().copied().zip(align.chars()).map(|c| cell(tag, c)).collect();
        format!("<tr>{cells}</tr>")
    };
    let body: String =
        rows.map(|row| line("td", &row.iter().map(String::as_str).collect::<Vec<_>>())).collect();
    if body.is_empty() {
        String::new()
    } else {
        format!("<div class=\"wide\"><table>{}{body}</table></div>", line("th", heads))
    }
}

const STYLE: &str = "\
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1b1f24; --soft: #6a737d; --grid: #e3e6ea;
  --c0: #2f6db5; --c1: #c8572b; --c2: #2e8b57; --c3: #8254b0; --c4: #a87f00; --c5: #b03a6f; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --ink: #e4e7ea; --soft: #99a1a9; --grid: #2c3137;
  --c0: #6ea8ec; --c1: #ef8f63; --c2: #62c290; --c3: #b893e2; --c4: #d5b04a; --c5: #e37fae; } }
body { background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; max-width: 1180px;
  margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 0.3rem; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 600; padding-right: 1.2rem; color: var(--soft); }
td { padding-right: 1.2rem; overflow-wrap: break-word; } th, td { vertical-align: top; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 520px), 1fr)); gap: 1rem; margin-top: 1rem; }
.chart { margin: 0; position: relative; } .tip { position: absolute; pointer-events: none; background: var(--ground); color: var(--ink);
  border: 1px solid var(--grid); border-radius: 4px; padding: 0.2rem 0.5rem; font-size: 0.8rem; z-index: 1; white-space: nowrap; }
.cursor { pointer-events: none; } #controls { display: flex; flex-wrap: wrap; gap: 0.4rem 1.2rem; color: var(--soft); margin-top: 0.8rem; }
#controls[hidden] { display: none; }
.charts svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .title { fill: var(--ink); font-size: 13px; font-weight: 600; }
.grid { stroke: var(--grid); } .mark { stroke: var(--soft); stroke-dasharray: 2 3; }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round; } .dashed { stroke-dasharray: 5 3; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); } .s3 { stroke: var(--c3); }
.s4 { stroke: var(--c4); } .s5 { stroke: var(--c5); }
svg .f0 { fill: var(--c0); } svg .f1 { fill: var(--c1); } svg .f2 { fill: var(--c2); } svg .f3 { fill: var(--c3); }
svg .f4 { fill: var(--c4); } svg .f5 { fill: var(--c5); }
.key { display: inline-block; width: 1em; height: 0.7em; margin-right: 0.35em; border-radius: 2px; }
.keys { color: var(--soft); } .c0 { background: var(--c0); } .c1 { background: var(--c1); } .c2 { background: var(--c2); }
.c3 { background: var(--c3); } .c4 { background: var(--c4); } .c5 { background: var(--c5); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; } .note, small { color: var(--soft); }
.grids { display: flex; flex-wrap: wrap; gap: 1.4rem; } .grids figure { margin: 0; max-width: 330px; }
details { margin: 0.6rem 0; } figure { margin: 0.5rem 0 1rem; } figcaption { color: var(--soft); font-size: 0.85rem; }
svg { max-width: 100%; height: auto; }
.wide { overflow-x: auto; } @media (max-width: 700px) { .wide > svg { max-width: none; } }
img { width: 100%; display: block; image-rendering: pixelated; border-radius: 2px; }
img.drops { height: 8px; margin-top: 2px; } img.legend { width: 260px; height: 10px; }
.scale { display: flex; width: 260px; justify-content: space-between; color: var(--soft); font-size: 0.8rem; }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_empty_parts_are_left_out() {
        assert_eq!(escape("a<b & \"c\""), "a&lt;b &amp; &quot;c&quot;");
        assert_eq!(escape("\u{1b}[0m<"), "\\u001b[0m&lt;");
        assert_eq!(table(&["x"], "l", std::iter::empty()), "");
        assert_eq!(section("x", "y", ""), "");
        assert!(
            table(&["x"], "r", [vec!["<1".to_owned()]].into_iter()).contains("<td class=\"n\">&lt;1</td>")
        );
    }
}
