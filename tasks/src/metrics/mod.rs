//! Definitions of metrics over predictions and references.
//!
//! Each equals the program that publishes it, which the tests compare: [`squad`] (SQuAD's evaluation script
//! 1.1), [`rouge`] (rouge-score), [`bleu`] (sacrebleu), [`classes`] and [`correlation`] (scikit-learn and
//! scipy).

pub mod bleu;
pub mod classes;
pub mod correlation;
pub mod rouge;
pub mod squad;
