//! Routing by expert, evaluation by language, and the comparison of runs by language.

use crate::support::{TINY, Workplace, model, tiny_switch};
use serde_json::Value;

/// Two languages of several thousand bytes.
fn place() -> Workplace {
    let place = Workplace::new();
    let lines = |words: [&str; 4]| -> String {
        (0..400).map(|n| format!("{} {} {n}\n", words[n % 4], words[n / 4 % 4])).collect()
    };
    place.write("en.txt", lines(["the house", "a tree", "some water", "to be"]));
    place.write("de.txt", lines(["das Haus", "ein Baum", "etwas Wasser", "zu sein"]));
    place
}

const DATA: [&str; 3] = ["--data", "en=en.txt", "de=de.txt"];

fn train(place: &Workplace, program: &str, dir: &str, sizes: &[&str]) {
    let path = model(program);
    let options = ["--steps", "4", "--eval-every", "2", "--eval-batches", "2", "--held-out", "0.3"];
    let args = [&["train", &path, "--run-dir", dir][..], &DATA, &options, sizes].concat();
    place.run_on_cpu(&args).succeeds();
}

#[test]
fn languages_are_routed_evaluated_and_compared() {
    let place = place();
    train(&place, "switch_tiny.rs", "sparse", &tiny_switch());
    train(&place, "t5_tiny.rs", "dense", &TINY);

    let routes = [&["routes", "sparse/checkpoints", "--capacity-factor", "1", "2"][..], &DATA].concat();
    let ran = place.run_on_cpu(&[&routes[..], &["-o", "routes.html"]].concat()).succeeds();
    for part in
        ["encoder layer 0: 8 experts", "decoder layer 0: 8 experts", "capacity factor", "de  ", "en  "]
    {
        assert!(ran.out.contains(part), "`{part}` is not in\n{}", ran.out);
    }
    let page = std::fs::read_to_string(place.at("routes.html")).unwrap();
    assert!(page.contains("Load of the experts by text") && !page.contains("<script"));
    let json: Value =
        serde_json::from_str(&place.run_on_cpu(&[&routes[..], &["--json"]].concat()).succeeds().out).unwrap();
    let layers = json["layers"].as_array().unwrap();
    assert_eq!((layers.len(), &json["texts"][0], &json["rows"]), (2, &"de".into(), &json["all_rows"]));
    // The capacity factor of evaluation is 2.
    assert!(layers.iter().all(|l| l["what_if"][1]["dropped_tokens"] == l["dropped_tokens"]), "{json}");

    let eval = [&["eval", "sparse/checkpoints"][..], &DATA].concat();
    let out = place.run_on_cpu(&eval).succeeds().out;
    assert!(out.contains("encoder dropped") && out.contains("decoder: sparse layer"), "{out}");
    let json: Value =
        serde_json::from_str(&place.run_on_cpu(&[&eval[..], &["--json"]].concat()).succeeds().out).unwrap();
    for name in ["en/decoder_load", "de/encoder_load"] {
        let load: f64 = json[name][0].as_array().unwrap().iter().filter_map(Value::as_f64).sum();
        assert!((load - 1.0).abs() < 1e-4, "{name}: {}", json[name]);
    }
    let tokens = |name: &str| json[name].as_f64().unwrap();
    let mean = (tokens("en/loss") * tokens("en/tokens") + tokens("de/loss") * tokens("de/tokens"))
        / tokens("tokens");
    assert!((mean - tokens("loss")).abs() < 1e-6);

    let alone = place.run(&["runs", "dense", "sparse"]).succeeds().out;
    let out = place.run(&["runs", "dense", "sparse", "-o", "both.html"]).succeeds().out;
    assert_eq!(out, format!("{alone}both.html\n"));
    assert!(
        out.contains("reaches the final held-out losses of dense") && out.contains("texts by ratio"),
        "{out}"
    );
    let json: Value =
        serde_json::from_str(&place.run(&["runs", "dense", "sparse", "--json"]).succeeds().out).unwrap();
    let texts: Vec<&Value> =
        json["speedups"][0]["texts"].as_array().unwrap().iter().map(|t| &t["text"]).collect();
    assert_eq!(texts, ["all", "de", "en"]);

    // Programs without routing are refused.
    let dense = ["routes", "dense/checkpoints", "--data", "en.txt"];
    place.run_on_cpu(&dense).fails(&["has no sparse layers", "switch_tiny"]);
    let tiny = model("switch_tiny.rs");
    place.run_on_cpu(&["routes", &tiny, "--data", "en.txt"]).fails(&["has no parameters"]);
    let sized = [&["compile", &tiny, "-o", "art"][..], &tiny_switch()].concat();
    place.run_on_cpu(&sized).succeeds();
    let artefact = ["routes", "art", "--checkpoint", "sparse/checkpoints", "--data", "en.txt"];
    place.run_on_cpu(&artefact).fails(&["routes/encoder/chosen", "not an artefact"]);
}
