//! Checkpoints on the CPU plugin: every layout reads every other, and mismatches are errors.

use models::Config;
use runtime::{
    Checkpoint, HostTensor, Session,
    checkpoint::{Fate, Kind, Mapping, Plan, RestoreScope, Writer},
};
use std::{collections::BTreeMap, path::Path};
use tests::training::{session, small_switch};

fn tiny() -> Config {
    Config { encoder_layers: 1, decoder_layers: 1, ..small_switch() }
}

fn initialized(mesh: &str, state_layout: &str) -> Session {
    let mut session = session(&tiny(), mesh, state_layout);
    let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(3))]);
    session.call("init", &seed).and_then(|o| o.wait()).unwrap_or_else(|e| panic!("{e}"));
    session.set_state("step", &HostTensor::s32(&[], &[12])).unwrap();
    session
}

fn save(session: &Session, dir: &Path) -> Checkpoint {
    let mut writer = Writer::create(dir).unwrap();
    session.save(&mut writer).unwrap();
    writer.finish(session.checkpoint_facts(), 12).unwrap();
    Checkpoint::open(dir).unwrap()
}

fn values(session: &Session) -> BTreeMap<String, HostTensor> {
    let names = session.artefact().manifest.state.iter().map(|s| &s.name);
    names.map(|n| (n.clone(), session.state(n).unwrap_or_else(|e| panic!("{e}")))).collect()
}

#[test]
fn every_layout_reads_what_every_other_one_wrote() {
    let place = tempfile::tempdir().unwrap();
    // Meshes and state layouts.
    let places =
        [("", ""), ("data=8", "*:data"), ("data=2,expert=2,model=2", ""), ("expert=4,model=2", "*:model")];
    let first = initialized("", "");
    let expected = values(&first);
    assert!(expected.len() > 10);
    let mut before = save(&first, &place.path().join("0"));
    for (n, (mesh, state_layout)) in places.iter().cycle().skip(1).take(7).enumerate() {
        let mut session = session(&tiny(), mesh, state_layout);
        assert!(!session.is_initialized());
        session.restore(&before, RestoreScope::All).unwrap_or_else(|e| panic!("{mesh}: {e}"));
        assert!(session.is_initialized());
        assert!(values(&session) == expected, "{mesh} {state_layout}");
        before = save(&session, &place.path().join((n + 1).to_string()));
        assert_eq!(before.facts()["mesh"], *mesh);
        let boxes = before.tensors().iter().map(|t| t.boxes.len()).max();
        assert_eq!(boxes > Some(1), !mesh.is_empty(), "{mesh}: {boxes:?}");
        before.verify().unwrap();
    }
}

#[test]
fn a_snapshot_is_written_while_the_session_changes() {
    let mut session = initialized("data=2", "*:data");
    let place = tempfile::tempdir().unwrap();
    let expected = values(&session);
    let copy = session.snapshot().unwrap();
    assert!(copy.bytes() > 100_000);
    for (name, value) in &expected {
        let zeros = HostTensor { bytes: vec![0; value.bytes.len()], ..value.clone() };
        session.set_state(name, &zeros).unwrap();
    }
    let mut writer = Writer::create(&place.path().join("c")).unwrap();
    copy.write(&mut writer).unwrap();
    writer.finish(session.checkpoint_facts(), 12).unwrap();
    session.restore(&Checkpoint::open(&place.path().join("c")).unwrap(), RestoreScope::All).unwrap();
    assert!(values(&session) == expected);
}

/// Sizes for which a copy takes longer than the start of a step.
fn large() -> Config {
    Config { batch: 8, d_model: 128, d_ff: 1024, ..tiny() }
}

fn step_inputs() -> BTreeMap<String, HostTensor> {
    let tokens = |length: usize| HostTensor::s32(&[8, length], &vec![7; 8 * length]);
    let seed = ("seed".to_owned(), HostTensor::u32_scalar(3));
    BTreeMap::from([seed, ("inputs".to_owned(), tokens(32)), ("targets".to_owned(), tokens(16))])
}

fn begun(mesh: &str) -> Session {
    let mut session = session(&large(), mesh, "");
    let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(3))]);
    session.call("init", &seed).and_then(|o| o.wait()).unwrap();
    session
}

#[test]
fn steps_beside_a_snapshot_give_the_same_bits() {
    let inputs = step_inputs();
    let losses = |session: &mut Session, hold: bool| {
        let step = |session: &mut Session| {
            // The state is shared until the end of the step.
            let _held = hold.then(|| session.snapshot().unwrap());
            session.call("train_step", &inputs).and_then(|o| o.wait()).unwrap()
        };
        (0..3).map(|_| step(session)).collect::<Vec<_>>()
    };
    for mesh in ["", "data=2,expert=2"] {
        let mut plain = begun(mesh);
        let expected = losses(&mut plain, false);
        let mut session = begun(mesh);
        session.compile("train_step").unwrap();
        session.record_memory_baseline().unwrap();
        assert!(losses(&mut session, true) == expected, "{mesh}");
        assert!(values(&session) == values(&plain), "{mesh}");
        // Later steps update the state in place again.
        assert!(losses(&mut session, false) == losses(&mut plain, false), "{mesh}");
    }
}

#[test]
fn a_step_that_starts_at_once_does_not_change_the_snapshot() {
    let mut session = begun("");
    let place = tempfile::tempdir().unwrap();
    let inputs = step_inputs();
    for round in 0..5 {
        let before = values(&session);
        let copy = session.snapshot().unwrap();
        session.call("train_step", &inputs).and_then(|o| o.wait()).unwrap();
        let dir = place.path().join(round.to_string());
        let mut writer = Writer::create(&dir).unwrap();
        copy.write(&mut writer).unwrap();
        writer.finish(session.checkpoint_facts(), round).unwrap();
        let saved = Checkpoint::open(&dir).unwrap();
        for (name, value) in &before {
            assert!(saved.read(name).unwrap() == *value, "{name} in round {round}");
        }
        assert!(values(&session) != before);
    }
}

#[test]
fn parameters_come_without_the_rest() {
    let place = tempfile::tempdir().unwrap();
    let first = initialized("", "");
    let checkpoint = save(&first, &place.path().join("c"));
    let mut other = session(&tiny(), "model=8", "");
    other.restore(&checkpoint, RestoreScope::Params).unwrap();
    assert!(!other.is_initialized());
    for entry in checkpoint.tensors() {
        match entry.kind {
            Kind::Param => assert_eq!(other.state(&entry.name).unwrap(), first.state(&entry.name).unwrap()),
            Kind::Slot | Kind::Counter => {
                assert!(other.state(&entry.name).unwrap_err().to_string().contains("no value"))
            }
        }
    }
}

/// Returns the values of a parameter as `f64`, and the number of elements of an index of its first dim.
fn numbers(session: &Session, name: &str) -> (Vec<f64>, usize) {
    let value = session.state(name).unwrap();
    (value.to_f64().unwrap(), value.dims[1..].iter().product())
}

#[test]
fn layers_of_parameters_are_taken_by_name_under_every_layout() {
    let place = tempfile::tempdir().unwrap();
    let first = initialized("", "");
    let checkpoint = save(&first, &place.path().join("c"));
    let rules = ["encoder/*[layers=1]=encoder/*[layers=0]", "decoder/*[layers=0]=decoder/*"];
    let mapping = Mapping {
        rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        allow_missing: vec!["*coder/*".parse().unwrap()],
        ignore: ["encoder/norm", "*/relative_bias", "decoder/norm"]
            .iter()
            .map(|p| p.parse().unwrap())
            .collect(),
        ..Mapping::default()
    };
    for (mesh, state_layout) in [("", ""), ("data=2,expert=2,model=2", "*:data")] {
        let deep = Config { encoder_layers: 2, decoder_layers: 2, ..small_switch() };
        let mut session = session(&deep, mesh, state_layout);
        let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(8))]);
        session.call("init", &seed).and_then(|o| o.wait()).unwrap();
        let before = values(&session);
        let plan = Plan::new(&session, &checkpoint, &mapping).unwrap_or_else(|e| panic!("{e}"));
        assert!(plan.table.rows.iter().any(|row| row.fate == Fate::Initialized), "{}", plan.table);
        session.check_load(&checkpoint, &plan).unwrap();
        assert!(values(&session) == before, "a check changes nothing");
        session.load(&checkpoint, &plan).unwrap();
        assert_eq!(session.state("embedding").unwrap(), first.state("embedding").unwrap());
        for (name, loaded) in [("encoder/attention/q", 1), ("decoder/ffn/wi", 0)] {
            let ((now, row), (theirs, _)) = (numbers(&session, name), numbers(&first, name));
            let (old, other) = (before[name].to_f64().unwrap(), 1 - loaded);
            let part = |values: &[f64], layer: usize| values[layer * row..(layer + 1) * row].to_vec();
            assert_eq!(part(&now, loaded), theirs, "{mesh}: {name}");
            assert_eq!(part(&now, other), part(&old, other), "{mesh}: {name}");
            assert_ne!(part(&old, loaded), theirs, "{mesh}: {name}");
        }
        let slots =
            before.iter().filter(|(name, _)| !checkpoint.tensor(name).is_some_and(|t| t.kind == Kind::Param));
        slots.for_each(|(name, value)| assert!(session.state(name).unwrap() == *value, "{name}"));
    }
}

#[test]
fn all_that_does_not_fit_is_listed_at_once_and_nothing_is_changed() {
    let place = tempfile::tempdir().unwrap();
    let checkpoint = save(&initialized("", ""), &place.path().join("c"));
    let mut config = Config { tied: false, d_ff: 128, ..tiny() };
    config.optimizer.method = models::Method::Sgd;
    let mut other = session(&config, "data=2", "");
    let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(1))]);
    other.call("init", &seed).and_then(|o| o.wait()).unwrap();
    let before = values(&other);
    let error = other.restore(&checkpoint, RestoreScope::All).unwrap_err().to_string();
    let has = |part: &str| error.lines().filter(|l| l.contains(part)).count();
    assert_eq!(has("missing: `"), 1, "the output projection: {error}");
    assert_eq!(has("the program expects f32["), 4, "wi and wo of both stacks: {error}");
    let slots = checkpoint.tensors().iter().filter(|t| t.kind == Kind::Slot).count();
    assert_eq!(has("left over: `"), slots, "{error}");
    assert!(error.contains("does not fit the program `small_switch`") && error.contains("help:"), "{error}");
    assert!(values(&other) == before);
    let error = other.restore(&checkpoint, RestoreScope::Params).unwrap_err().to_string();
    assert!(!error.contains("left over") && error.contains("missing"), "{error}");

    // A damaged tensor that is detected after others were read.
    let last = checkpoint.tensors().last().expect("there are tensors");
    let part = &last.boxes[0];
    let path = checkpoint.dir().join(&part.file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[part.offset as usize] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let mut same = session(&tiny(), "data=2", "");
    let error = same
        .restore(&Checkpoint::open(checkpoint.dir()).unwrap(), RestoreScope::All)
        .unwrap_err()
        .to_string();
    assert!(error.contains(&last.name) && error.contains("was altered"), "{error}");
    assert!(!same.is_initialized() && same.state(&checkpoint.tensors()[0].name).is_err());
}
