//! Fine-tuning on the CPU plugin: frozen parameters and low-rank adapters.

use models::{Config, Switch, lora::Lora, patterns::Patterns};
use proto::manifest::StateKind;
use runtime::{
    Checkpoint, HostTensor, Session,
    checkpoint::{Mapping, Plan, RestoreScope, Writer},
};
use std::{collections::BTreeMap, path::Path};
use tests::training::{session, session_of, small_switch};

fn tiny() -> Config {
    let switch = Some(Switch { sparse_step: 2, decoder_sparse_step: 1, ..Switch::default() });
    Config { switch, encoder_layers: 2, decoder_layers: 1, ..small_switch() }
}

type Values = BTreeMap<String, HostTensor>;

fn inputs(config: &Config) -> Values {
    let tokens = |length: usize, seed: usize| {
        let values: Vec<i32> =
            (0..config.batch * length).map(|i| (3 + (i * 7 + seed) % 200) as i32).collect();
        HostTensor::s32(&[config.batch, length], &values)
    };
    BTreeMap::from([
        ("seed".to_owned(), HostTensor::u32_scalar(7)),
        ("inputs".to_owned(), tokens(config.input_length, 1)),
        ("targets".to_owned(), tokens(config.target_length, 2)),
    ])
}

fn initialize(session: &mut Session) {
    let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(3))]);
    session.call("init", &seed).and_then(|o| o.wait()).unwrap_or_else(|e| panic!("{e}"));
}

fn train(session: &mut Session, config: &Config, steps: usize) {
    for _ in 0..steps {
        session.call("train_step", &inputs(config)).and_then(|o| o.wait()).unwrap_or_else(|e| panic!("{e}"));
    }
}

fn params(session: &Session) -> Values {
    let state = session.artefact().manifest.state.iter().filter(|s| s.kind() == StateKind::Param);
    state.map(|s| (s.name.clone(), session.state(&s.name).unwrap_or_else(|e| panic!("{e}")))).collect()
}

fn save(session: &Session, dir: &Path) -> Checkpoint {
    let mut writer = Writer::create(dir).unwrap();
    session.save(&mut writer).unwrap();
    writer.finish(session.checkpoint_facts(), 3).unwrap();
    Checkpoint::open(dir).unwrap()
}

/// Trains and checks that exactly the parameters `moving` change, and that only they have slots.
#[track_caller]
fn only_these_move(
    config: &Config,
    mesh: &str,
    state_layout: &str,
    moving: impl Fn(&str) -> bool,
) -> Session {
    let mut session = session(config, mesh, state_layout);
    let slots = session.artefact().manifest.state.iter().filter(|s| s.kind() == StateKind::Slot);
    let of = |name: &str| name.rsplit_once('/').map_or(String::new(), |(param, _)| param.to_owned());
    let slots: Vec<String> = slots.map(|s| of(&s.name)).collect();
    assert!(!slots.is_empty() && slots.iter().all(|name| moving(name)), "{slots:?}");
    initialize(&mut session);
    let before = params(&session);
    train(&mut session, config, 3);
    let after = params(&session);
    for (name, value) in &before {
        assert_eq!(after[name] != *value, moving(name), "{mesh}: {name}");
    }
    assert!(before.keys().any(|name| moving(name)) && before.keys().any(|name| !moving(name)));
    session
}

#[test]
fn frozen_parameters_keep_their_bits_and_have_no_slots() {
    let freeze = Patterns::from("encoder/*,*/attention/k,embedding");
    let frozen = freeze.clone();
    let mut config = Config { freeze, ..tiny() };
    let moving = |name: &str| !frozen.has(name);
    only_these_move(&config, "", "", moving);
    config.schedule.microbatches = 2;
    only_these_move(&config, "data=2,expert=2", "*:data", moving);
}

#[test]
fn the_gradient_of_frozen_parameters_is_not_computed() {
    let flops = |freeze: &str| {
        let config = Config { freeze: Patterns::from(freeze), ..tiny() };
        session(&config, "", "").artefact().manifest.summary.unwrap_or_default().flops_per_step
    };
    let (all, no_encoder, norm) =
        (flops(""), flops("encoder/*,embedding"), flops("encoder/*,embedding,decoder/*i*"));
    assert!(no_encoder < all * 3 / 4, "without the encoder: {no_encoder} of {all}");
    assert!(norm < no_encoder, "without most of the decoder: {norm} of {no_encoder}");
}

fn adapted() -> Config {
    let lora = Lora { rank: 2, alpha: 6.0, targets: Patterns::from("*/q,*/v,*/o,*/ffn/w*,*/router") };
    Config { lora: Some(lora), ..tiny() }
}

#[test]
fn only_adapters_move_and_merged_matrices_compute_the_same() {
    let is_part = |name: &str| name.ends_with("/lora_a") || name.ends_with("/lora_b");
    let session = only_these_move(&adapted(), "data=2,expert=2", "*:data", is_part);
    let place = tempfile::tempdir().unwrap();
    let own = save(&session, &place.path().join("own"));
    let merged = interchange::lora::merge(&own, &place.path().join("merged"));
    assert!(merged.unwrap_or_else(|e| panic!("{e:#}")) > 10);
    let merged = Checkpoint::open(&place.path().join("merged")).unwrap();
    assert!(merged.tensors().iter().all(|t| !is_part(&t.name)), "the model has no adapters");
    let score = |config: &Config, checkpoint: &Checkpoint| {
        let module = models::score::program(config, &mesh::Site::default()).finish().unwrap();
        let mut session = session_of(module, "", "", "");
        session.restore(checkpoint, RestoreScope::Params).unwrap_or_else(|e| panic!("{e}"));
        let mut inputs = inputs(config);
        inputs.remove("seed");
        let outputs = session.call("score", &inputs).and_then(|o| o.wait()).unwrap_or_else(|e| panic!("{e}"));
        outputs["log_likelihood"].to_f64().unwrap()
    };
    let (unmerged, merged) = (score(&adapted(), &own), score(&tiny(), &merged));
    let base = {
        let mut session = session_of_base();
        initialize(&mut session);
        score(&tiny(), &save(&session, &place.path().join("base")))
    };
    for ((a, b), base) in unmerged.iter().zip(&merged).zip(&base) {
        assert!((a - b).abs() < 1e-4 * a.abs(), "{a} and {b}");
        assert!((a - base).abs() > 1e-2, "adapters change the model: {a} and {base}");
    }
}

fn session_of_base() -> Session {
    session(&tiny(), "", "")
}

#[test]
fn adapters_begin_with_the_parameters_of_the_model_without_them() {
    let place = tempfile::tempdir().unwrap();
    let mut base = session_of_base();
    initialize(&mut base);
    let checkpoint = save(&base, &place.path().join("base"));
    let mut session = session(&adapted(), "data=2", "*:data");
    initialize(&mut session);
    let refused = Plan::new(&session, &checkpoint, &Mapping::default()).unwrap_err().to_string();
    assert!(refused.contains("missing: `encoder/block_0/attention/q/lora_a`"), "{refused}");
    let meta = session.artefact().manifest.meta.clone();
    let mapping = Mapping::default().completed(|key| meta.get(key).map(String::as_str)).unwrap();
    let plan = Plan::new(&session, &checkpoint, &mapping).unwrap_or_else(|e| panic!("{e}"));
    session.load(&checkpoint, &plan).unwrap();
    for (name, value) in params(&base) {
        assert!(session.state(&name).unwrap() == value, "{name}");
    }
}

#[track_caller]
fn refuses(config: Config, message: &str) {
    let mistakes = models::program(&config, &mesh::Site::default()).finish().unwrap_err().to_string();
    assert!(mistakes.contains(message), "{mistakes}");
}

#[test]
fn patterns_that_name_nothing_are_mistakes() {
    let frozen = |freeze: &str| Config { freeze: Patterns::from(freeze), ..tiny() };
    refuses(frozen("encoder/*,decodr/*"), "`freeze=decodr/*` names no parameter");
    refuses(frozen("*"), "all parameters are frozen");
    let lora = |targets: &str, alpha| {
        let lora = Lora { rank: 2, alpha, targets: Patterns::from(targets) };
        Config { lora: Some(lora), ..tiny() }
    };
    refuses(lora("*/queries", 1.0), "`lora_targets=*/queries` names no matrix");
    refuses(lora("*/q", f64::NAN), "`lora_alpha` must be a finite number");
}
