//! The task contract of a program as a message of the manifest.

use mesh::task::{DecodingMethod, Generation, Names, Objective, Sentinels, SpecialTokens, Task, TaskKind};
use proto::manifest;

/// Returns the message for `task`.
pub(crate) fn message(task: &Task) -> manifest::Task {
    let Task { kind, vocab, batch, input_length, target_length, continues, special_tokens, names } = task;
    let (kind, training, generation) = match *kind {
        TaskKind::Train { objective, packing } => {
            let training = manifest::Training { objective: self::objective(objective).into(), packing };
            (manifest::TaskKind::Train, Some(training), None)
        }
        TaskKind::Score => (manifest::TaskKind::Score, None, None),
        TaskKind::Generate(generation) => {
            (manifest::TaskKind::Generate, None, Some(self::generation(generation)))
        }
    };
    manifest::Task {
        kind: kind.into(),
        vocab: *vocab as u64,
        batch: *batch as u64,
        input_length: *input_length as u64,
        target_length: *target_length as u64,
        continues: *continues,
        special_tokens: Some(tokens(*special_tokens)),
        names: Some(self::names(names)),
        training,
        generation,
    }
}

fn objective(objective: Objective) -> manifest::Objective {
    match objective {
        Objective::SpanCorruption => manifest::Objective::SpanCorruption,
        Objective::PrefixLm => manifest::Objective::PrefixLm,
        Objective::Lm => manifest::Objective::Lm,
    }
}

fn generation(generation: Generation) -> manifest::Generation {
    let Generation { method, beams, steps, filter } = generation;
    let method = match method {
        DecodingMethod::Greedy => manifest::DecodingMethod::Greedy,
        DecodingMethod::Sample => manifest::DecodingMethod::Sample,
        DecodingMethod::Beam => manifest::DecodingMethod::Beam,
    };
    manifest::Generation { method: method.into(), beams: beams as u64, steps: steps as u64, filter }
}

fn tokens(tokens: SpecialTokens) -> manifest::SpecialTokens {
    let SpecialTokens { pad, eos, sentinels } = tokens;
    let sentinels = sentinels.map(|Sentinels { first, count }| manifest::Sentinels { first, count });
    manifest::SpecialTokens { pad, eos, sentinels }
}

fn names(names: &Names) -> manifest::TaskNames {
    let Names { inputs, targets, inputs_segments, targets_segments, seed, loss, row_loss } = names;
    manifest::TaskNames {
        inputs: inputs.to_string(),
        targets: targets.to_string(),
        inputs_segments: inputs_segments.to_string(),
        targets_segments: targets_segments.to_string(),
        seed: seed.to_string(),
        loss: loss.to_string(),
        row_loss: row_loss.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_language_and_the_manifest_name_prints_and_assertions_alike() {
        use mesh::task;
        use proto::watched::{ASSERT_FINITE, NAN_INF, PRINT};
        let language = [task::PRINT, task::ASSERT_FINITE, task::NAN_INF];
        assert_eq!([PRINT, ASSERT_FINITE, NAN_INF], language);
    }
}
