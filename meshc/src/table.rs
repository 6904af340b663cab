//! Numbers and tables for people.

/// One column as wide as its widest cell; `align` has `<` or `>` for each column.
pub fn table(heads: &[&str], align: &str, rows: &[Vec<String>]) -> String {
    let heads: Vec<String> = heads.iter().map(|h| (*h).to_owned()).collect();
    let width = |i: usize| rows.iter().chain([&heads]).map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut out = String::new();
    for row in [&heads].into_iter().chain(rows) {
        let mut line = String::new();
        for ((cell, width), align) in row.iter().zip(&widths).zip(align.chars()) {
            line += &if align == '<' { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") };
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// `7.41 M`: three digits and a decimal prefix.
pub fn count(n: u64) -> String {
    scaled(n, 1000.0, &["", " k", " M", " G", " T", " P", " E"])
}

/// `1.43 GiB`: three digits and a binary prefix.
pub fn size(n: u64) -> String {
    scaled(n, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

fn scaled(n: u64, step: f64, units: &[&str]) -> String {
    let (mut x, mut unit) = (n as f64, 0);
    while x >= step && unit + 1 < units.len() {
        x /= step;
        unit += 1;
    }
    let digits = if unit == 0 || x >= 100.0 {
        0
    } else if x >= 10.0 {
        1
    } else {
        2
    };
    format!("{x:.digits$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "200".to_owned()]];
        assert_eq!(table(&["name", "n"], "<>", &rows), "name    n\na       1\nlong  200\n");
    }

    #[test]
    fn sizes_have_three_digits() {
        assert_eq!([3, 1536, 20 << 20].map(size), ["3 B", "1.50 KiB", "20.0 MiB"]);
        assert_eq!([999, 18_500_000].map(count), ["999", "18.5 M"]);
    }
}
