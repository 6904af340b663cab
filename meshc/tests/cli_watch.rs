//! Prints and assertions of programs through the command line.

use crate::support::{Ran, Workplace, cpu_plugin, text};
use mesh::{
    DType, Dim, Task,
    dsl::{Init, Program},
    task::Objective,
};

/// A program whose steps 1 to 3 are finite. In step 4, layer 0 has 8 NaN.
fn program() -> String {
    let p = Program::new("nan");
    let (batch, length, layers) = (Dim::new("batch", 4), Dim::new("target_length", 2), Dim::new("layers", 3));
    p.task(Task { vocab: 384, batch: 4, target_length: 2, ..Task::train(Objective::Lm) });
    let (step, w) = (p.counter("step", DType::S32, Init::Zeros), p.param("w", [&layers], Init::Ones));
    p.function("train_step", |g| {
        let targets = g.input("targets", DType::S32, [&batch, &length]);
        let at = step.read(g);
        let root = (at.cast(DType::F32) * -1.0 + 2.0).print("room").sqrt();
        let (h, ()) = g.scan(&layers, targets.cast(DType::F32), (), |h, ()| {
            g.scope("block", || (h * 0.5 + (root * w.read(g)).assert_finite("root"), ()))
        });
        // The loss stays finite.
        let loss = h.is_finite().select(h, 0.0).sum_all();
        let gradients = g.grad(loss, &[w.read(g)]);
        w.assign(w.read(g) - gradients[0] * 0.0);
        step.assign(at + 1);
        g.output("loss", loss);
    });
    mesh::text::print(&p.finish().unwrap_or_else(|d| panic!("{d}")))
}

#[test]
fn an_assertion_stops_the_run_before_its_checkpoint() {
    let place = Workplace::new();
    place.write("nan.mesh", program());
    let text = text();
    let train = |plugin: &[&str], run: &str| {
        let base = ["train", "nan.mesh", "--data", &text, "--steps", "9", "--save-every", "1", "--seed", "1"];
        let mut command = place.meshc(&[&base[..], plugin, &["--run-dir", run]].concat());
        command.env("MESH_PJRT_PLUGIN", cpu_plugin());
        Ran::new(command.output().expect("meshc starts"))
    };
    for (plugin, run) in [(&["--plugin", "interpreter"][..], "i"), (&[][..], "p")] {
        let ran = train(plugin, run).fails(&[
            "step 4: assertion failed: `block/root` has 3 NaN and 0 infinite elements, first in iteration 0 of `layers`",
            "step 1: room = 2",
        ]);
        assert!(!ran.err.contains("warning"), "{}", ran.err);
        let saved = ["step_00000001", "step_00000002", "step_00000003"];
        assert_eq!(place.folders(&format!("{run}/checkpoints")), saved);
        let lines = place.metrics(&format!("{run}/metrics.jsonl"));
        let rooms: Vec<f64> = lines.iter().filter_map(|line| line["print/room"].as_f64()).collect();
        assert_eq!(rooms, [2.0, 1.0, 0.0]);
    }
}

#[test]
fn run_shows_prints_and_refuses_results_that_are_not_finite() {
    let place = Workplace::new();
    let text = "
module log
func f(%x: f32[d=3]) -> (y: f32[d=3], print/x: f32[d=3], assert_finite/y: s32[nan_inf=2]) {
  %y = log %x
  %one = constant {dtype=f32, value=0}
  %zero = eq %x, %one
  %negative = lt %x, %one
  %a = cast %negative {dtype=s32}
  %b = cast %zero {dtype=s32}
  %c = reduce_sum %a {dims=[d]}
  %e = reduce_sum %b {dims=[d]}
  %h = broadcast %c {dims=[nan_inf=1]}
  %i = broadcast %e {dims=[nan_inf=1]}
  %j = concat %h, %i {dim=nan_inf}
  return %y, %x, %j
}
";
    place.write("log.mesh", text);
    let call = |x: &[f32]| {
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        let header =
            format!("{{\"x\":{{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,{}]}}}}", bytes.len());
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(bytes);
        place.write("x.safetensors", file);
        place.run(&[
            "run",
            "log.mesh",
            "f",
            "--plugin",
            "interpreter",
            "--inputs",
            "x.safetensors",
            "--outputs",
            "y.safetensors",
        ])
    };
    let ran = call(&[1.0, 2.0, 4.0]).succeeds();
    assert_eq!(ran.out, "x = [1, 2, 4] (3)\ny.safetensors: print/x, y\n");
    std::fs::remove_file(place.at("y.safetensors")).expect("the call wrote it");
    call(&[1.0, -2.0, 0.0]).fails(&["assertion failed: `y` has 1 NaN and 1 infinite elements"]);
    assert!(!place.at("y.safetensors").exists());
}
