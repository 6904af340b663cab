//! The difference of two texts, by lines.

/// Returns removed lines with `-`, added lines with `+`, and up to two equal lines around each change. Empty
/// if the texts are equal.
pub fn diff(old: &str, new: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    if a == b {
        let ends = if old == new { "" } else { "  (the texts differ in line ends only)\n" };
        return ends.to_owned();
    }
    let start = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let (rest_a, rest_b) = (&a[start..], &b[start..]);
    let end = rest_a.iter().rev().zip(rest_b.iter().rev()).take_while(|(x, y)| x == y).count();
    let edits = edits(&rest_a[..rest_a.len() - end], &rest_b[..rest_b.len() - end]);
    let mut lines: Vec<(char, &str)> = a[..start].iter().map(|line| (' ', *line)).collect();
    lines.extend(edits);
    lines.extend(a[a.len() - end..].iter().map(|line| (' ', *line)));
    let near = |i: usize| lines[i.saturating_sub(2)..(i + 3).min(lines.len())].iter().any(|(c, _)| *c != ' ');
    let shown = (0..lines.len()).filter(|i| near(*i));
    shown.map(|i| format!("  {}{}\n", lines[i].0, lines[i].1)).collect()
}

/// Returns the shortest edit by longest common subsequence. Texts too long for its table are replaced whole.
fn edits<'t>(a: &[&'t str], b: &[&'t str]) -> Vec<(char, &'t str)> {
    let mut out = Vec::new();
    if a.len().saturating_mul(b.len()) > 4_000_000 {
        out.extend(a.iter().map(|line| ('-', *line)));
        out.extend(b.iter().map(|line| ('+', *line)));
        return out;
    }
    let width = b.len() + 1;
    let mut common = vec![0u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i * width + j] = if a[i] == b[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            out.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || i < a.len() && common[(i + 1) * width + j] >= common[i * width + j + 1] {
            out.push(('-', a[i]));
            i += 1;
        } else {
            out.push(('+', b[j]));
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::diff;

    #[test]
    fn changes_show_with_their_surroundings() {
        assert_eq!(diff("a\nb\n", "a\nb\n"), "");
        assert_eq!(diff("1\n2\n3\n4\n5\n", "1\n2\n3\nx\n5\n"), "   2\n   3\n  -4\n  +x\n   5\n");
        assert_eq!(diff("a\n", "a\nb\n"), "   a\n  +b\n");
        assert!(diff("a\n", "a").contains("line ends"));
    }
}
