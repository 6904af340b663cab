//! Step time of index dispatch and of one-hot (einsum) dispatch.
//!
//! Both programs run whole training steps, alternating in one process, so that noise of the machine affects
//! both.

use crate::{lower, step};
use anyhow::{Result, anyhow, ensure};
use mesh::{Mesh, Site};
use models::{Config, Dispatch, Schedule, Switch};
use pjrt::{Client, ClientOptions};
use runtime::{
    Artefact, HostTensor, Session,
    plugin::{Platform, SearchPaths, find, load},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Instant};

/// Pairs of the number of experts and the tokens of a group.
const CASES: [(usize, usize); 5] = [(32, 4096), (8, 16), (8, 32), (8, 64), (8, 128)];

/// Input tokens of a step. It has as many target tokens.
const TOKENS: usize = 4096;

/// Measures the step time of both dispatches in every case: the median of `rounds` after one warm-up round.
/// With `quick`, only the first case.
pub fn measure(rounds: usize, quick: bool) -> Result<Value> {
    let around = SearchPaths::from_environment()?;
    let found = find(Platform::Cpu, None, &around, &mut |line| eprintln!("{line}"))?;
    cpu_heap::keep_freed_memory();
    let plugin = load(&found.path, Platform::Cpu)?;
    let client = Client::create(&plugin, &ClientOptions::new().with("cpu_device_count", 1))?;
    let cases = if quick { &CASES[..1] } else { &CASES[..] };
    let cases: Result<Vec<Value>> =
        cases.iter().map(|(experts, group)| case(&client, *experts, *group, rounds)).collect();
    Ok(json!({"rounds": rounds, "tokens": TOKENS, "cases": cases?}))
}

/// Returns a model with one sparse layer per stack and the sizes of switch_tiny.
fn config(experts: usize, group_size: usize, dispatch: Dispatch) -> Config {
    Config {
        name: "dispatch".into(),
        batch: TOKENS / 128,
        input_length: 128,
        target_length: 128,
        vocab: 384,
        d_model: 256,
        d_ff: 1024,
        heads: 8,
        d_kv: 32,
        encoder_layers: 1,
        decoder_layers: 1,
        switch: Some(Switch { experts, group_size, ..Switch::default() }),
        schedule: Schedule { dispatch, ..Schedule::default() },
        ..Config::default()
    }
}

/// A session with the inputs of a step, and the measured times.
struct Candidate {
    session: Session,
    inputs: BTreeMap<String, HostTensor>,
    times: Vec<f64>,
    loss: f64,
}

impl Candidate {
    fn new(client: &Client, config: &Config) -> Result<Self> {
        let module = models::program(config, &Site::default()).finish().map_err(|d| anyhow!("{d}"))?;
        let built = lower::lower(module, &Mesh::default())?;
        let files = built.files.into_iter().collect();
        let artefact = Artefact::new(config.name.clone(), built.manifest, files)?;
        let mut session = Session::with_client(client.clone(), artefact)?;
        let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(1))]);
        session.call("init", &seed)?.wait()?;
        session.compile("train_step")?;
        let inputs = step::batch(session.artefact())?;
        Ok(Self { session, inputs, times: Vec::new(), loss: f64::NAN })
    }

    fn step(&mut self) -> Result<()> {
        let start = Instant::now();
        let outputs = self.session.call("train_step", &self.inputs)?.wait()?;
        self.loss = outputs["loss"].to_f64()?[0];
        self.times.push(start.elapsed().as_secs_f64() * 1e3);
        Ok(())
    }

    /// Returns the median in milliseconds, without the warm-up step.
    fn median(&self) -> f64 {
        let mut times = self.times[1..].to_vec();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }
}

fn case(client: &Client, experts: usize, group: usize, rounds: usize) -> Result<Value> {
    ensure!(rounds > 0, "ROUNDS must be at least 1, got {rounds}");
    let [by_index, by_product] = [Dispatch::Permute, Dispatch::Einsum];
    let mut both =
        [by_index, by_product].map(|dispatch| Candidate::new(client, &config(experts, group, dispatch)));
    let [Ok(index), Ok(product)] = &mut both else {
        return Err(both.into_iter().find_map(Result::err).expect("one of the two failed"));
    };
    for round in 0..=rounds {
        // The order alternates from round to round.
        let order = if round % 2 == 0 { [&mut *index, &mut *product] } else { [&mut *product, &mut *index] };
        order.into_iter().try_for_each(Candidate::step)?;
    }
    let difference = (index.loss - product.loss).abs();
    ensure!(difference <= 1e-3 * product.loss, "the losses are {} and {}", index.loss, product.loss);
    let options = config(experts, group, Dispatch::Auto).switch.expect("the model is sparse");
    Ok(json!({
        "experts": experts, "group": group, "capacity": options.capacity(group, true),
        "sort_ms": index.median(), "einsum_ms": product.median(), "speedup": product.median() / index.median(),
        "auto_takes": if options.dispatches_by_index(Dispatch::Auto, group, true) { "sort" } else { "einsum" },
        "loss": index.loss, "loss_difference": difference,
    }))
}
