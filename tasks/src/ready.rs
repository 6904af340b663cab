//! Task files that are part of mesh: text-to-text forms of public tasks. The user brings the data.

/// All tasks: names and files, in the order of names.
pub const READY: &[(&str, &str)] = &[
    ("anli_r1", include_str!("../ready/anli_r1.toml")),
    ("anli_r2", include_str!("../ready/anli_r2.toml")),
    ("anli_r3", include_str!("../ready/anli_r3.toml")),
    ("arc_challenge", include_str!("../ready/arc_challenge.toml")),
    ("arc_easy", include_str!("../ready/arc_easy.toml")),
    ("cnn_dailymail", include_str!("../ready/cnn_dailymail.toml")),
    ("glue_cola", include_str!("../ready/glue_cola.toml")),
    ("glue_mnli", include_str!("../ready/glue_mnli.toml")),
    ("glue_mnli_mismatched", include_str!("../ready/glue_mnli_mismatched.toml")),
    ("glue_mrpc", include_str!("../ready/glue_mrpc.toml")),
    ("glue_qnli", include_str!("../ready/glue_qnli.toml")),
    ("glue_qqp", include_str!("../ready/glue_qqp.toml")),
    ("glue_rte", include_str!("../ready/glue_rte.toml")),
    ("glue_sst2", include_str!("../ready/glue_sst2.toml")),
    ("glue_stsb", include_str!("../ready/glue_stsb.toml")),
    ("glue_wnli", include_str!("../ready/glue_wnli.toml")),
    ("natural_questions", include_str!("../ready/natural_questions.toml")),
    ("squad", include_str!("../ready/squad.toml")),
    ("super_glue_boolq", include_str!("../ready/super_glue_boolq.toml")),
    ("super_glue_cb", include_str!("../ready/super_glue_cb.toml")),
    ("super_glue_copa", include_str!("../ready/super_glue_copa.toml")),
    ("super_glue_multirc", include_str!("../ready/super_glue_multirc.toml")),
    ("super_glue_record", include_str!("../ready/super_glue_record.toml")),
    ("super_glue_rte", include_str!("../ready/super_glue_rte.toml")),
    ("super_glue_wic", include_str!("../ready/super_glue_wic.toml")),
    ("super_glue_wsc", include_str!("../ready/super_glue_wsc.toml")),
    ("trivia_qa", include_str!("../ready/trivia_qa.toml")),
    ("web_questions", include_str!("../ready/web_questions.toml")),
    ("winogrande", include_str!("../ready/winogrande.toml")),
    ("xsum", include_str!("../ready/xsum.toml")),
];

/// Returns the tasks of this name, or those that match a pattern such as `glue_*`.
pub fn matching(name: &str) -> Vec<(&'static str, &'static str)> {
    let pattern = glob::Pattern::new(name);
    let is_one = |of: &str| pattern.as_ref().is_ok_and(|pattern| pattern.matches(of)) || name == of;
    READY.iter().copied().filter(|(of, _)| is_one(of)).collect()
}

/// Returns the first comment of a task file, on one line.
pub fn about(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix('#'));
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Split, TaskSpec, example::examples};
    use data::Record;
    use serde_json::{Value, json};
    use std::path::Path;

    #[test]
    fn every_task_is_valid_and_says_what_it_is() {
        let names: Vec<&str> = READY.iter().map(|(name, _)| *name).collect();
        assert!(names.is_sorted() && names.len() == 30);
        for (name, text) in READY {
            let spec = TaskSpec::parse(text, name, name, Path::new("")).unwrap();
            assert!(
                spec.name == *name && !spec.metrics.is_empty() && about(text).ends_with(['.', '?']),
                "{name}"
            );
            assert!(spec.splits.contains_key(&Split::Validation), "{name}");
        }
        assert_eq!(matching("anli_*").len(), 3);
        assert_eq!((matching("squad").len(), matching("squid").len()), (1, 0));
    }

    /// A record of a public data set becomes this input and target.
    #[track_caller]
    fn check(name: &str, record: Value, inputs: &str, targets: &str) {
        let spec = TaskSpec::parse(matching(name)[0].1, name, name, Path::new("")).unwrap();
        let Value::Object(fields) = record else { panic!("records are objects") };
        let record = Record { path: Path::new("x.jsonl"), number: 1, fields };
        let all = examples(&spec, Split::Train, &record).unwrap();
        assert_eq!((all[0].inputs.as_str(), all[0].targets.as_deref()), (inputs, Some(targets)));
    }

    #[test]
    fn records_become_the_forms_of_t5() {
        check("glue_cola", json!({"sentence": "s", "label": 1}), "cola sentence: s", "acceptable");
        check(
            "glue_mnli",
            json!({"premise": "p", "hypothesis": "h", "label": 2, "idx": 0}),
            "mnli hypothesis: h premise: p",
            "contradiction",
        );
        let pair = json!({"sentence1": "a", "sentence2": "b", "label": 3.25});
        check("glue_stsb", pair, "stsb sentence1: a sentence2: b", "3.2");
        check(
            "squad",
            json!({"question": "Who?", "context": "A (B)", "answers": {"text": ["U.S.", "y"], "answer_start": [0, 1]}}),
            "question: Who ? context: A ( B )",
            "U . S .",
        );
        check(
            "winogrande",
            json!({"sentence": "the _ s", "option1": "a", "option2": "b", "answer": "2"}),
            "winogrande sentence: the _ s option1: a option2: b",
            "b",
        );
        let choices = json!({"text": ["x", "y"], "label": ["A", "B"]});
        check(
            "arc_easy",
            json!({"question": "q", "choices": choices, "answerKey": "B"}),
            "arc question: q choices: x, y",
            "y",
        );
        let idx = json!({"paragraph": 1, "question": 2, "answer": 3});
        check(
            "super_glue_multirc",
            json!({"question": "q", "answer": "a", "paragraph": "<b>p:</b>x<br>y", "idx": idx, "label": 0}),
            "multirc question: q answer: a paragraph: p:x y",
            "False",
        );
        check(
            "trivia_qa",
            json!({"question": "q", "answer": {"value": "v", "aliases": ["v", "w"]}}),
            "trivia_qa question: q",
            "v",
        );
        check(
            "anli_r3",
            json!({"uid": "u", "premise": "p", "hypothesis": "h", "label": 1, "reason": ""}),
            "anli hypothesis: h premise: p",
            "neutral",
        );
        let news = json!({"document": "d", "summary": "s", "id": "1"});
        check("xsum", news, "summarize: d", "s");
        check("natural_questions", json!({"question": "q", "answer": ["a", "b"]}), "nq question: q", "a");
        let web = json!({"url": "u", "question": "q", "answers": ["a", "b"]});
        check("web_questions", web, "wq question: q", "a");
        check(
            "super_glue_cb",
            json!({"premise": "p", "hypothesis": "h", "label": 1}),
            "cb hypothesis: h premise: p",
            "contradiction",
        );
        check(
            "glue_qnli",
            json!({"question": "q", "sentence": "s", "label": 0}),
            "qnli question: q sentence: s",
            "entailment",
        );
        let wsc = json!({"text": "Mark told Pete lies. He was", "span1_text": "Mark", "span2_index": 4, "label": 1});
        check("super_glue_wsc", wsc, "wsc span1: Mark text: Mark told Pete lies. *He* was", "True");
    }
}
