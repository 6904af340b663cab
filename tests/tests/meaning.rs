//! Random programs under random legal layouts: simulated devices give the same results as one device.

use compiler::interp::Precision;
use tests::generate;
use tests::law::{Interpreter, Law, Plugin, Stage, Tolerance, check};

/// With 64-bit floats, only the order of sums makes a difference.
const WIDE: Tolerance = Tolerance { relative: 1e-10, bf16: 0.0, rounding: 0.0 };
/// Results are bit-equal.
const SAME: Tolerance = Tolerance { relative: 0.0, bf16: 0.0, rounding: 0.0 };

fn interpreter(stage: Stage, precision: Precision) -> Interpreter {
    Interpreter { stage, precision }
}

/// Checks the cases `from..to`, with two programs each, under three layouts each.
fn programs(from: u64, to: u64) {
    let wide = |stage| interpreter(stage, Precision::Wide);
    let normal = |stage| interpreter(stage, Precision::Normal);
    let laws = [
        Law { one: &wide(Stage::Global), other: &wide(Stage::Local), near: WIDE },
        Law { one: &normal(Stage::Global), other: &normal(Stage::SimpleGlobal), near: SAME },
        Law { one: &wide(Stage::SimpleGlobal), other: &wide(Stage::SimpleLocal), near: WIDE },
    ];
    for seed in from..to {
        let mut case = generate::case(seed, 2, 14);
        for again in 0..3 {
            if again > 0 {
                case = case.relaid(seed * 3 + again);
            }
            check(&case, &laws);
        }
    }
}

#[test]
fn programs_mean_the_same_under_every_layout_1() {
    programs(0, 150);
}

#[test]
fn programs_mean_the_same_under_every_layout_2() {
    programs(150, 300);
}

/// Plugin functions such as tanh have errors of a few units in the last place.
const DEVICE: Tolerance = Tolerance { relative: 1e-5, bf16: 0.02, rounding: 16.0 };

/// Checks the cases `from..to`, with ten programs each, on the plugin.
fn on_plugin(from: u64, to: u64) {
    let interpreter = interpreter(Stage::Global, Precision::Normal);
    let laws = [false, true].map(|partitioned| Plugin { partitioned });
    let laws = laws.each_ref().map(|plugin| Law { one: &interpreter, other: plugin, near: DEVICE });
    for seed in from..to {
        check(&generate::case(seed, 10, 5), &laws);
    }
}

#[test]
fn programs_on_the_plugin_do_what_the_interpreter_does_1() {
    on_plugin(10_000, 10_025);
}

#[test]
fn programs_on_the_plugin_do_what_the_interpreter_does_2() {
    on_plugin(10_025, 10_050);
}

/// More programs, for changes of the compiler: `SEEDS=1000..3000 cargo test -p tests --test all
/// meaning::soak -- --exact --ignored`.
#[test]
#[ignore = "a soak test, started by hand: its time grows with SEEDS"]
fn soak() {
    let (from, to) = seeds();
    programs(from, to);
}

/// More programs on the plugin.
#[test]
#[ignore = "a soak test, started by hand: its time grows with SEEDS"]
fn soak_on_the_plugin() {
    let (from, to) = seeds();
    on_plugin(from, to);
}

fn seeds() -> (u64, u64) {
    let seeds = std::env::var("SEEDS").unwrap_or("20000..20100".into());
    let (from, to) = seeds.split_once("..").expect("SEEDS is FROM..TO");
    (from.parse().expect("FROM is a number"), to.parse().expect("TO is a number"))
}
