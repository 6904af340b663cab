//! The rules by which a student starts with the parameters of its teacher.
//!
//! Layer `i` of `n` takes what layer `i · m / n` of the teacher's `m` layers has under the same name with the
//! same dims: everything but experts, which a dense student lacks. The other parameters keep their initial
//! values.

use super::TEACHER;
use crate::{Config, Weight, stack::Stack};
use mesh::Dim;
use std::collections::BTreeMap;

/// The parameters with which a run starts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Start {
    /// The rules `TO=FROM`.
    pub rules: Vec<String>,
    /// The parameters that no rule covers completely.
    pub initial: Vec<String>,
}

/// The layers of one parameter that come from one tensor of the teacher: the tensor's name before the part
/// that both share, and pairs of indices along `layers`.
type Sources = BTreeMap<String, Vec<(usize, usize)>>;

/// A parameter of the student by layer.
struct Stacked {
    /// The part of the name before and after the kind of layer, such as `encoder/attention` and `q`.
    group: String,
    rest: String,
    sources: Sources,
}

impl Start {
    /// Plans the start of the student `config` with the parameters `student`. With `init`, they are taken
    /// from the teacher.
    pub fn new(config: &Config, teacher: &Config, student: &[Weight], theirs: &[Weight], init: bool) -> Self {
        let mut start = Self { rules: vec![format!("{TEACHER}/*=*")], initial: Vec::new() };
        let theirs: BTreeMap<String, Vec<Dim>> = theirs
            .iter()
            .filter_map(|w| Some((w.state.name().strip_prefix("teacher/")?.to_owned(), w.state.dims())))
            .collect();
        let mut stacked: Vec<Stacked> = Vec::new();
        for weight in student {
            let (name, dims) = (weight.state.name().to_string(), weight.state.dims());
            if !init {
                start.initial.push(name);
                continue;
            }
            if weight.layers.is_empty() {
                if theirs.get(&name) != Some(&dims) {
                    start.initial.push(name);
                }
                continue;
            }
            let found = sources(config, teacher, &name, &dims, &theirs);
            let covered = found.sources.values().map(Vec::len).sum::<usize>();
            if covered < dims.first().map_or(0, |d| d.size) {
                start.initial.push(name);
            }
            stacked.push(found);
        }
        start.rules.extend(rules(&stacked));
        start
    }
}

/// Finds the tensors of the teacher for all layers of the parameter `name`.
fn sources(
    config: &Config,
    teacher: &Config,
    name: &str,
    dims: &[Dim],
    theirs: &BTreeMap<String, Vec<Dim>>,
) -> Stacked {
    let mut found = Stacked { group: name.to_owned(), rest: String::new(), sources: Sources::new() };
    let depths = |c: &Config| [(false, c.encoder_layers), (true, c.decoder_layers)];
    for ((decoder, ours), (_, depth)) in depths(config).into_iter().zip(depths(teacher)) {
        for i in 0..ours {
            let here = Stack::location(config, decoder, i);
            let there = Stack::location(teacher, decoder, i * depth / ours);
            let tail = name.strip_prefix(&here.scope).and_then(|tail| tail.strip_prefix('/'));
            let Some((kind, rest)) = tail.and_then(|tail| tail.split_once('/')) else { continue };
            found.group = format!("{}/{kind}", here.scope);
            found.rest = rest.to_owned();
            let source = format!("{}/{kind}", there.scope);
            let same = theirs.get(&format!("{source}/{rest}")).is_some_and(|d| d.get(1..) == dims.get(1..));
            if same {
                found.sources.entry(source).or_default().push((here.layer, there.layer));
            }
        }
    }
    found
}

/// Returns the rules of all parameters: one rule for a kind of layer if all of its parameters have the same
/// sources.
fn rules(stacked: &[Stacked]) -> Vec<String> {
    let mut rules = Vec::new();
    let mut groups: Vec<&str> = stacked.iter().map(|s| s.group.as_str()).collect();
    groups.dedup();
    for group in groups {
        let own: Vec<&Stacked> = stacked.iter().filter(|s| s.group == group).collect();
        let same = own.iter().all(|s| s.sources == own[0].sources);
        for Stacked { group, rest, sources } in own.into_iter().take(if same { 1 } else { usize::MAX }) {
            let rest = if same { "*" } else { rest };
            for (source, pairs) in sources {
                rules.extend(
                    parts(pairs).into_iter().map(|(to, from)| {
                        format!("{group}/{rest}[layers={to}]={source}/{rest}[layers={from}]")
                    }),
                );
            }
        }
    }
    rules
}

/// Returns the parts of both dims that pair these indices: one part if the distances are equal, else one for
/// each pair.
fn parts(pairs: &[(usize, usize)]) -> Vec<(String, String)> {
    let steps = |pick: fn(&(usize, usize)) -> usize| -> Option<usize> {
        let all: Vec<usize> = pairs.iter().map(pick).collect();
        let step = all.get(1)?.checked_sub(all[0]).filter(|step| *step > 0)?;
        all.windows(2).all(|w| w[1] == w[0] + step).then_some(step)
    };
    let (Some(to), Some(from)) = (steps(|p| p.0), steps(|p| p.1)) else {
        return pairs.iter().map(|(to, from)| (to.to_string(), from.to_string())).collect();
    };
    let range = |first: usize, last: usize, step: usize| match step {
        1 => format!("{first}:{}", last + 1),
        step => format!("{first}:{}:{step}", last + 1),
    };
    let (first, last) = (pairs[0], pairs[pairs.len() - 1]);
    vec![(range(first.0, last.0, to), range(first.1, last.1, from))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Switch, Weights, objective::EncoderDecoder};
    use mesh::dsl::Program;

    fn start(config: &Config, teacher: &Config) -> Start {
        let p = Program::new("test");
        let (student, theirs) = (Weights::new(&p), Weights::new(&p));
        EncoderDecoder::new(&student, config);
        p.scope(TEACHER, || EncoderDecoder::new(&theirs, teacher));
        Start::new(config, teacher, &student.all(), &theirs.all(), true)
    }

    fn dense(layers: usize) -> Config {
        Config { encoder_layers: layers, decoder_layers: layers, ..crate::zoo::t5_tiny() }
    }

    fn sparse(layers: usize) -> Config {
        let switch = Switch { experts: 4, sparse_step: 2, ..Switch::default() };
        Config { switch: Some(switch), ..dense(layers) }
    }

    #[track_caller]
    fn check(config: &Config, teacher: &Config, rules: &[&str], initial: &[&str]) {
        let start = start(config, teacher);
        let encoder: Vec<&String> = start.rules.iter().filter(|r| !r.starts_with("decoder")).collect();
        assert_eq!(encoder, rules);
        let encoder: Vec<&String> = start.initial.iter().filter(|r| !r.starts_with("decoder")).collect();
        assert_eq!(encoder, initial);
    }

    #[test]
    fn a_dense_student_takes_what_is_not_an_expert() {
        check(
            &dense(4),
            &sparse(4),
            &[
                "teacher/*=*",
                "encoder/attention/*[layers=0:3:2]=encoder/block_0/attention/*[layers=0:2]",
                "encoder/attention/*[layers=1:4:2]=encoder/block_1/attention/*[layers=0:2]",
                "encoder/ffn/norm[layers=0:3:2]=encoder/block_0/ffn/norm[layers=0:2]",
                "encoder/ffn/norm[layers=1:4:2]=encoder/block_1/ffn/norm[layers=0:2]",
                "encoder/ffn/wi[layers=0:3:2]=encoder/block_0/ffn/wi[layers=0:2]",
                "encoder/ffn/wo[layers=0:3:2]=encoder/block_0/ffn/wo[layers=0:2]",
            ],
            &["encoder/ffn/wi", "encoder/ffn/wo"],
        );
    }

    #[test]
    fn depths_and_widths_may_differ() {
        check(
            &dense(2),
            &dense(6),
            &[
                "teacher/*=*",
                "encoder/attention/*[layers=0:2]=encoder/attention/*[layers=0:4:3]",
                "encoder/ffn/*[layers=0:2]=encoder/ffn/*[layers=0:4:3]",
            ],
            &[],
        );
        let narrow = Config { d_model: 8, ..dense(2) };
        let start = start(&narrow, &dense(2));
        assert_eq!(start.rules, ["teacher/*=*"]);
        assert!(start.initial.contains(&"embedding".to_owned()), "{start:?}");
        assert!(!start.initial.contains(&"encoder/relative_bias".to_owned()), "{start:?}");
    }

    #[test]
    fn indices_without_a_pattern_stand_alone() {
        let part = |pairs: &[(usize, usize)]| parts(pairs).into_iter().map(|(a, b)| format!("{a}={b}"));
        assert_eq!(part(&[(0, 1)]).collect::<Vec<_>>(), ["0=1"]);
        assert_eq!(part(&[(0, 0), (1, 0)]).collect::<Vec<_>>(), ["0=0", "1=0"]);
        assert_eq!(part(&[(1, 0), (3, 1), (5, 2)]).collect::<Vec<_>>(), ["1:6:2=0:3"]);
    }
}
