//! Observation of routing: a planted specialization is found, and drops with other capacities are those of a
//! run with them.

use data::{Batch, BatchSource, Corpus, Mixture, Text, Tokenizer, Tokens};
use driver::{
    routes::{Options, observe},
    source::Source,
};
use mesh::Site;
use models::{
    Config, Switch, routes,
    switch::options::{Priority, RoutingMethod, SparseParts},
};
use report::routes::{LayerRoutes, Routes};
use runtime::{Contract, HostTensor, Session};
use std::{collections::BTreeMap, sync::Arc};
use tests::training::session_of;

const EXPERTS: usize = 4;

fn config(switch: Switch) -> Config {
    Config {
        name: "observed".into(),
        batch: 8,
        input_length: 32,
        target_length: 16,
        d_model: 8,
        d_ff: 8,
        heads: 2,
        d_kv: 4,
        encoder_layers: 2,
        decoder_layers: 2,
        switch: Some(switch),
        ..Config::default()
    }
}

fn switch(eval_capacity_factor: f64) -> Switch {
    Switch { experts: EXPERTS, eval_capacity_factor, min_capacity: 1, ..Switch::default() }
}

/// Opens a session of the program that records routing, with initial parameters.
#[track_caller]
fn session(config: &Config) -> Session {
    let module = routes::program(config, &Site::default()).finish();
    let module = module.unwrap_or_else(|d| panic!("the model has mistakes:\n{d}"));
    let mut session = session_of(module, "data=2,expert=2", &config.layout(), "");
    let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(3))]);
    session.call("init", &seed).and_then(|o| o.wait()).unwrap_or_else(|e| panic!("{e}"));
    session
}

/// Two languages: one of digits, one of letters.
fn languages(session: &Session) -> Source {
    let spec = Contract::batch_spec(session.artefact()).unwrap();
    let corpus = |(name, line): (&str, &str)| {
        let text = Text::new(line.repeat(100));
        let tokens = Tokens::of_text(&text, &Tokenizer::Bytes).unwrap();
        Corpus { name: name.into(), rate: None, tokens }
    };
    let lines = [("digits", "1 22 333 4444 5 66 777\n"), ("letters", "an area is a better area, see\n")];
    let options = data::Options { held_out: 1.0, ..data::Options::default() };
    let mixture = Mixture::new(lines.map(corpus).into(), spec, &options);
    Source::Text(Arc::new(mixture.unwrap_or_else(|e| panic!("{e}"))))
}

/// The class of a token: digits, vowels, other letters, everything else.
fn class(token: i32) -> usize {
    match u8::try_from(token - 3) {
        Ok(byte) if byte.is_ascii_digit() => 0,
        Ok(b'a' | b'e' | b'i' | b'o' | b'u') => 1,
        Ok(byte) if byte.is_ascii_lowercase() => 2,
        Ok(_) | Err(_) => 3,
    }
}

/// Gives the model parameters that send each class to one expert: the class itself in layer 0, the next one
/// in layer 1. All layers add nothing to the residual stream, which is the class of the token.
fn plant(session: &mut Session) {
    let states = session.artefact().manifest.state.clone();
    for state in states {
        let tensor = state.tensor.unwrap();
        let dims: Vec<(&str, usize)> =
            tensor.dims.iter().map(|d| (d.name.as_str(), d.size as usize)).collect();
        let sizes: Vec<usize> = dims.iter().map(|d| d.1).collect();
        let value = |at: usize| {
            let index: BTreeMap<&str, usize> = dims
                .iter()
                .enumerate()
                .map(|(d, (name, size))| (*name, at / sizes[d + 1..].iter().product::<usize>() % size))
                .collect();
            let is = match state.name.as_str() {
                "embedding" => class(index["vocab"] as i32) == index["d_model"],
                name if name.ends_with("router") => {
                    (index["d_model"] + index["layers"]) % EXPERTS == index["experts_all"]
                        && index["d_model"] < EXPERTS
                }
                name => name.ends_with("norm"),
            };
            if is { 1.0 } else { 0.0 }
        };
        let values: Vec<f32> = (0..sizes.iter().product()).map(value).collect();
        session.set_state(&state.name, &HostTensor::f32(&sizes, &values)).unwrap();
    }
}

#[track_caller]
fn observed(session: &mut Session, factors: &[f64], sample: Option<usize>) -> Routes {
    let source = languages(session);
    let options = Options { sample, factors: factors.to_vec() };
    observe(session, "ck", &source, &options).unwrap_or_else(|e| panic!("{e:#}"))
}

/// Tokens that a stack reads in held-out batches, by language and class.
fn read(source: &dyn BatchSource, decoder: bool) -> [[u64; EXPERTS]; 2] {
    let mut counts = [[0; EXPERTS]; 2];
    for number in 0..source.held_out_batches() {
        let Batch { inputs, targets, .. } = source.held_out_batch(number).unwrap();
        let language = usize::from(source.held_out_corpus(number) == Some("letters"));
        let rows: Vec<Vec<i32>> = match decoder {
            false => inputs.chunks(32).map(<[i32]>::to_vec).collect(),
            true => targets.chunks(16).map(|row| [&[0], row].concat()).collect(),
        };
        for row in rows {
            // The decoder reads the token before each target.
            let used = if decoder { row.windows(2).filter(|w| w[1] != 0).count() } else { row.len() };
            let own = row.iter().take(used).filter(|token| decoder || **token != 0);
            own.for_each(|token| counts[language][class(*token)] += 1);
        }
    }
    counts
}

#[test]
fn a_planted_specialization_is_found() {
    let mut session = session(&config(switch(4.0)));
    plant(&mut session);
    let found = observed(&mut session, &[4.0, 0.25], None);
    let source = languages(&session).batches();
    assert_eq!((found.rows, found.all_rows, found.layers.len()), (found.all_rows, found.rows, 4));
    for layer in &found.layers {
        let name = layer.name();
        let counts = read(&*source, layer.stack == "decoder");
        let all: u64 = counts.iter().flatten().sum();
        assert_eq!((layer.tokens, layer.dropped_tokens), (all, 0), "{name}");
        assert!(layer.information.piece > 0.99, "{name}: {:?}", layer.information);
        for kind in 0..EXPERTS {
            let expert = &layer.experts[(kind + layer.layer) % EXPERTS];
            let own: u64 = counts.iter().map(|of| of[kind]).sum();
            assert_eq!((expert.tokens, expert.load), (own, own as f64 / all as f64), "{name}: class {kind}");
            assert!(expert.gate > 0.5 && expert.scores.piece > 0.95, "{name}: {expert:?}");
            assert!(!expert.highest.piece.is_empty(), "{name}: {expert:?}");
            for lift in &expert.highest.piece {
                let token = if lift.what.len() == 1 { 3 + i32::from(lift.what.as_bytes()[0]) } else { 0 };
                assert_eq!((class(token), lift.share), (kind, 1.0), "{name}: {lift:?}");
                assert!((lift.lift - all as f64 / own as f64).abs() < 1e-9, "{name}: {lift:?}");
            }
        }
        for (language, text) in counts.iter().zip(&layer.texts) {
            let of_text: u64 = language.iter().sum();
            assert_eq!((text.tokens, text.dropped), (of_text, 0), "{name}");
            for (kind, count) in language.iter().enumerate() {
                let share = *count as f64 / of_text as f64;
                assert_eq!(text.load[(kind + layer.layer) % EXPERTS], share, "{name}");
            }
        }
        // One slot of a quarter of the tokens, four experts: drops are those of the replay.
        assert_eq!(layer.what_if.len(), 2, "{name}");
        assert!(layer.what_if[0].dropped_tokens > 0 && layer.what_if[1].dropped_tokens == 0, "{name}");
    }
    // Each expert of layer 0 gives its tokens to the next one of layer 1.
    assert_eq!(found.coactivation.len(), 2);
    for pair in &found.coactivation {
        assert!(pair.information.unwrap() > 0.95, "{pair:?}");
        assert!(pair.pairs.iter().all(|(a, b, _)| (a + 1) % EXPERTS as u32 == *b), "{pair:?}");
    }
    let text = found.to_string();
    assert!(text.contains("encoder layer 1: 4 experts") && text.contains("digits"), "{text}");
    let page = report::html::routes::page(&found);
    assert!(page.contains("decoder layer 1") && !page.contains("<script") && !page.contains("http"));
}

/// Compares the drops of a replay with those of runs: in all layers of a planted model, and in the first
/// layer of a random one, whose later layers see the drops of earlier ones.
#[track_caller]
fn check_replay(options: Switch, planted: bool, factors: &[f64]) {
    let of = |factor: f64| {
        let mut session = session(&config(Switch { eval_capacity_factor: factor, ..options.clone() }));
        if planted {
            plant(&mut session);
        }
        observed(&mut session, factors, None).layers
    };
    let recorded = of(2.0);
    for (number, factor) in factors.iter().enumerate() {
        let run = of(*factor);
        let exact = if planted { run.len() } else { 1 };
        for (layer, recorded) in run.iter().zip(&recorded).take(exact) {
            let what_if = &recorded.what_if[number];
            assert_eq!(what_if.capacity, layer.capacity, "{options:?}");
            let name = recorded.name();
            assert_eq!(what_if.dropped_tokens, layer.dropped_tokens, "{name} at {factor}: {options:?}");
        }
        let dropped: u64 = run.iter().take(exact).map(|layer: &LayerRoutes| layer.dropped_tokens).sum();
        assert!(dropped > 0, "nothing is dropped at {factor}: {options:?}");
    }
}

#[test]
fn a_replay_drops_what_a_run_with_that_capacity_drops() {
    let groups = Switch { group_sequences: 2, ..switch(2.0) };
    let top_2 = Switch { min_capacity: 1, ..Switch::top_2(EXPERTS) };
    check_replay(Switch { priority: Priority::Gate, ..groups.clone() }, true, &[0.5]);
    check_replay(top_2, false, &[1.0]);
    let expert_sizes = format!("64x{},32x{}@2", EXPERTS - 2, 2).parse().unwrap();
    check_replay(Switch { expert_sizes, ..switch(2.0) }, false, &[0.5]);
    if std::env::var_os("MESH_SLOW").is_none_or(|value| value != "1") {
        tests::say_skipped("the other ways of routing run with MESH_SLOW=1");
        return;
    }
    check_replay(switch(2.0), true, &[0.5, 1.0, 1.25]);
    check_replay(groups, false, &[0.5, 1.0]);
    let ntlb = Switch { routing: RoutingMethod::Ntlb, top_k: 2, ignore_padding: false, ..switch(2.0) };
    check_replay(ntlb, false, &[0.25, 0.5]);
    let attention = Switch { sparse_parts: SparseParts::Both, priority: Priority::Gate, ..switch(2.0) };
    check_replay(attention, false, &[0.5, 1.0]);
}

#[test]
fn routing_without_a_replay_says_why_and_is_counted() {
    for (options, why) in [
        (Switch { routing: RoutingMethod::ExpertChoice, ..switch(1.0) }, "expert_choice"),
        (Switch { routing: RoutingMethod::ExpertSelection, ..switch(1.0) }, "expert_selection"),
        (Switch { expert_groups: 2, ..switch(1.0) }, "expert_groups"),
    ] {
        let found = observed(&mut session(&config(options.clone())), &[], None);
        for layer in &found.layers {
            let reason = layer.no_what_if.as_deref().unwrap_or_default();
            assert!(layer.what_if.is_empty() && reason.contains(why), "{reason}");
            let chosen: u64 = layer.experts.iter().map(|expert| expert.tokens).sum();
            let dropped = layer.dropped_tokens;
            assert!(chosen > 0 && dropped < layer.tokens, "{chosen} {dropped}: {options:?}");
        }
    }
}

#[test]
fn thousands_of_experts_are_observed() {
    let switch = Switch { experts: 2048, eval_capacity_factor: 1.0, min_capacity: 1, ..Switch::default() };
    let config = Config { encoder_layers: 6, ..config(switch) };
    let mut session = session(&config);
    let found = observed(&mut session, &[1.0, 256.0], Some(16));
    assert_eq!((found.rows, found.layers.len(), found.coactivation.len()), (16, 8, 15 + 1));
    for layer in &found.layers {
        let tokens: u64 = layer.experts.iter().map(|expert| expert.tokens).sum();
        assert_eq!((layer.experts.len(), tokens), (2048, layer.tokens), "{}", layer.name());
        let used = layer.experts.iter().filter(|expert| expert.tokens > 0).count();
        assert!(used > 1 && used + layer.dead.len() == 2048, "{}: {used}", layer.name());
        let [same, more] = [0, 1].map(|n| layer.what_if[n].dropped_tokens);
        assert!(same == layer.dropped_tokens && more < same, "{}: {same} {more}", layer.name());
    }
}

#[test]
fn a_sample_has_whole_batches_of_every_language() {
    let mut session = session(&config(switch(2.0)));
    let all = observed(&mut session, &[], None);
    let some = observed(&mut session, &[], Some(9));
    // Two batches of eight rows; the last one of a language has fewer.
    assert!((9..=16).contains(&some.rows) && some.all_rows == all.rows, "{} {}", some.rows, all.rows);
    assert!(some.layers[0].texts.iter().all(|text| text.tokens > 0));
    assert!(some.to_string().contains(&format!("a sample of {} of {} rows", some.rows, all.rows)));
    let dense = Config { switch: None, ..config(switch(1.0)) };
    let mut session = self::session(&dense);
    let source = languages(&session);
    let error = observe(&mut session, "ck", &source, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("no sparse layers"), "{error}");
}
