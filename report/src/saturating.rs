//! Sums and products that stop at the largest number: sizes of programs are not bounded by any machine.

/// Returns the sum.
pub(super) fn sum(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, u64::saturating_add)
}

/// Returns the product.
pub(super) fn product(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(1, u64::saturating_mul)
}

/// Adds `number` to `total`.
pub(super) fn add(total: &mut u64, number: u64) {
    *total = total.saturating_add(number);
}
