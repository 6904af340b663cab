//! Correlation coefficients of numbers.

/// Returns Pearson's correlation coefficient; NaN if either side is constant or there are fewer than two
/// pairs.
pub fn pearson(all: &[(f64, f64)]) -> f64 {
    let n = all.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| all.iter().map(of).sum::<f64>() / n;
    let (a, b) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let sum = |of: &dyn Fn(f64, f64) -> f64| all.iter().map(|(x, y)| of(x - a, y - b)).sum::<f64>();
    let (both, of_a, of_b) = (sum(&|x, y| x * y), sum(&|x, _| x * x), sum(&|_, y| y * y));
    match of_a > 0.0 && of_b > 0.0 {
        true => (both / (of_a.sqrt() * of_b.sqrt())).clamp(-1.0, 1.0),
        false => f64::NAN,
    }
}

/// Returns Spearman's rank correlation coefficient, equal numbers having the mean of their ranks.
pub fn spearman(all: &[(f64, f64)]) -> f64 {
    let (a, b): (Vec<f64>, Vec<f64>) = all.iter().copied().unzip();
    pearson(&ranks(&a).into_iter().zip(ranks(&b)).collect::<Vec<_>>())
}

fn ranks(numbers: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|a, b| numbers[*a].total_cmp(&numbers[*b]));
    let mut ranks = vec![0.0; numbers.len()];
    for equal in order.chunk_by(|a, b| numbers[*a] == numbers[*b]) {
        let before = numbers.iter().filter(|n| **n < numbers[equal[0]]).count();
        equal.iter().for_each(|at| ranks[*at] = before as f64 + (equal.len() as f64 + 1.0) / 2.0);
    }
    ranks
}
