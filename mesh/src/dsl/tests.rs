//! Tests of the DSL: the structure of programs, and complete diagnostics with the line of the model.

use super::*;
use crate::{
    DType, Diagnostics, Dim, Module, Op, StateKind,
    ir::{Control, Index, Shape, StateOp},
};
use std::panic::Location;

/// Checks the messages of `build`, with lines counted from the call of `check`.
#[track_caller]
fn check(build: impl FnOnce(&Program), expect: &str) {
    let start = Location::caller().line();
    let p = Program::new("test");
    build(&p);
    let text = match p.finish() {
        Ok(_) => "no mistakes".to_owned(),
        Err(Diagnostics(all)) => {
            let relative = |d: &crate::Diagnostic| {
                let mut d = d.clone();
                d.site =
                    d.site.map(|s| crate::Site::new("model.rs", s.line - start, s.column, s.scope.clone()));
                d.to_string()
            };
            all.iter().map(relative).collect::<Vec<_>>().join("\n")
        }
    };
    // Lines in messages are relative to the call of `check`.
    assert_eq!(text, expect);
}

fn build(f: impl FnOnce(&Program)) -> Module {
    let p = Program::new("test");
    f(&p);
    p.finish().expect("the program of this test has no mistakes")
}

fn dims() -> (Dim, Dim, Dim) {
    (Dim::new("batch", 8), Dim::new("d_model", 4), Dim::new("layers", 3))
}

/// Returns the operations of a function's body as debug text.
fn ops(module: &Module, function: &str) -> Vec<String> {
    let body = &module.function(function).expect("the test defines it").body;
    body.insts.iter().map(|i| format!("{:?}", i.op)).collect()
}

#[test]
fn operators_broadcast_by_name_and_carry_their_line() {
    let (batch, d, _) = dims();
    let module = build(|p| {
        p.function("f", |g| {
            let x = g.input("x", DType::F32, [&batch, &d]);
            let scale = g.input("scale", DType::F32, [&d]);
            g.scope("outer", || {
                g.scope("inner", || g.output("y", 1.0 - x * scale / 2.0f32));
            });
        });
    });
    let f = module.function("f").unwrap();
    assert_eq!(f.inputs, ["x", "scale"]);
    assert_eq!(f.outputs, ["y"]);
    assert_eq!(f.body.insts.len(), 5);
    for inst in &f.body.insts {
        assert!(inst.site.file.ends_with("tests.rs"));
        assert_eq!(inst.site.line, f.body.insts[0].site.line);
        assert_eq!(&*inst.site.scope, "outer/inner");
    }
    let ty = f.body.result_types().next().unwrap();
    assert_eq!(ty.display(&module.env.mesh).to_string(), "f32[batch=8, d_model=4]");
}

#[test]
fn a_product_of_three_starts_with_the_cheapest_pair() {
    let (a, b, c, d) = (Dim::new("a", 64), Dim::new("b", 32), Dim::new("c", 2), Dim::new("d", 64));
    let module = build(|p| {
        p.function("f", |g| {
            let x = g.input("x", DType::F32, [&a, &b]);
            let y = g.input("y", DType::F32, [&b, &c]);
            let z = g.input("z", DType::F32, [&c, &d]);
            g.output("xyz", einsum([x, y, z], [&a, &d]));
            g.output("total", einsum([x], ["a"]));
        });
    });
    let f = &module.function("f").unwrap().body;
    let types: Vec<String> =
        f.insts.iter().map(|i| f.ty(i.results[0]).display(&module.env.mesh).to_string()).collect();
    assert_eq!(types, ["f32[a=64, c=2]", "f32[a=64, d=64]", "f32[a=64]"]);
}

#[test]
fn a_scan_captures_slices_and_counts() {
    let (batch, d, layers) = dims();
    let e = d.renamed("e");
    let module = build(|p| {
        let w = p.param("w", [&layers, &d, &e], Init::truncated_normal(1.0, &[&d]));
        let gain = p.param("gain", [&d], Init::Ones);
        p.function("f", |g| {
            let x = g.input("x", DType::F32, [&batch, &d]);
            let bias = x * 0.5;
            let (y, sums) = g.scan(&layers, x, (), |x, ()| {
                let h = einsum([x, w.read(g)], [&batch, &e]).rename(&e, &d) * gain.read(g) + bias;
                let h = h + g.iteration().cast(DType::F32);
                (h, h.sum([&batch, &d]))
            });
            g.output("y", y);
            g.output("sums", sums);
        });
    });
    let f = &module.function("f").unwrap().body;
    let scan = f.insts.iter().find_map(|i| match &i.op {
        Op::Control(Control::Scan(scan)) => Some((scan, &i.args)),
        _ => None,
    });
    let (scan, args) = scan.expect("the function has a scan");
    assert_eq!((scan.carries, scan.xs, args.len()), (1, 2, 5));
    let types: Vec<String> =
        scan.body.param_types().map(|t| t.display(&module.env.mesh).to_string()).collect();
    let expect = [
        "f32[batch=8, d_model=4]",
        "f32[d_model=4, e=4]",
        "s32[]",
        "f32[d_model=4]",
        "f32[batch=8, d_model=4]",
    ];
    assert_eq!(types, expect);
    let reads = f.insts.iter().filter(|i| matches!(i.op, Op::State(StateOp::Read(_)))).count();
    assert_eq!(reads, 2, "state is read at the top");
    let outputs: Vec<String> = f.result_types().map(|t| t.display(&module.env.mesh).to_string()).collect();
    assert_eq!(outputs, ["f32[batch=8, d_model=4]", "f32[layers=3]"]);
}

#[test]
fn both_branches_of_a_conditional_take_what_either_captures() {
    let (batch, _, _) = dims();
    let module = build(|p| {
        p.function("f", |g| {
            let x = g.input("x", DType::F32, [&batch]);
            let (a, b) = (x + 1.0, x + 2.0);
            let p = x.sum(&batch).gt(0.0);
            let (y, _) = g.cond(p, || (a * b, a), || (b + b, b));
            g.output("y", y);
        });
    });
    let f = &module.function("f").unwrap().body;
    let Some(Op::Control(Control::Cond { then, otherwise })) = f.insts.last().map(|i| &i.op) else {
        panic!("the last instruction is the conditional")
    };
    assert_eq!((then.params.len(), otherwise.params.len()), (2, 2));
    assert_eq!(f.insts.last().unwrap().args.len(), 3);
}

#[test]
fn state_is_read_once_and_init_does_not_depend_on_the_order_of_declarations() {
    let (_, d, _) = dims();
    let module = |swap: bool| {
        build(|p| {
            let declare = |name: &str| p.scope("net", || p.param(name, [&d], Init::Normal(0.5)));
            let (w, v) = if swap {
                let v = declare("v");
                (declare("w"), v)
            } else {
                (declare("w"), declare("v"))
            };
            let step = p.counter("step", DType::S32, Init::Zeros);
            p.function("f", |g| {
                w.assign(w.read(g) + w.read(g) * v.read(g));
                step.assign(step.read(g) + 1);
            });
        })
    };
    let module = (module(false), module(true));
    let find = |module: &Module| -> Vec<(String, u32)> {
        let init = &module.function("init").unwrap().body;
        let streams = init.insts.iter().filter_map(|i| match &i.op {
            Op::Random(random) => Some(random.stream),
            _ => None,
        });
        let names = module.env.states.iter().filter(|(_, s)| s.kind == StateKind::Param);
        let mut all: Vec<_> = names.map(|(_, s)| s.name.to_string()).zip(streams).collect();
        all.sort();
        all
    };
    assert_eq!(find(&module.0), find(&module.1));
    assert_eq!(find(&module.0).len(), 2);
    assert_ne!(find(&module.0)[0].1, find(&module.0)[1].1);
    assert_eq!(module.0.functions[0].name, "init");
    let f = &module.0.function("f").unwrap().body;
    let reads = f.insts.iter().filter(|i| matches!(i.op, Op::State(StateOp::Read(_)))).count();
    assert_eq!(reads, 3);
}

#[test]
fn random_streams_differ_by_call_and_do_not_depend_on_other_scopes() {
    let (batch, _, _) = dims();
    let streams = |extra: bool| -> Vec<u32> {
        let module = build(|p| {
            p.function("f", |g| {
                let rng = Rng::new(g.input("seed", DType::U32, []), g.constant(0.0, DType::U32));
                if extra {
                    g.scope("a", || g.output("extra", rng.uniform([&batch], DType::F32)));
                }
                g.scope("b", || {
                    let rng = rng.fold(g.constant(3.0, DType::S32));
                    g.output("u", rng.uniform([&batch], DType::F32));
                    g.output("n", rng.normal([&batch], DType::Bf16));
                    g.output("b", rng.bernoulli(0.5, [&batch]));
                });
            });
        });
        let body = &module.function("f").unwrap().body;
        let stream = |op: &Op| match op {
            Op::Random(random) => Some(random.stream),
            _ => None,
        };
        body.insts.iter().filter_map(|i| stream(&i.op)).collect()
    };
    let (with, without) = (streams(true), streams(false));
    assert_eq!(with[1..], without);
    assert!(with.iter().enumerate().all(|(i, s)| !with[..i].contains(s)));
}

#[test]
fn a_rehearsal_draws_the_numbers_of_what_follows() {
    let module = build(|p| {
        p.function("f", |g| {
            let rng = Rng::new(g.input("seed", DType::U32, []), g.constant(0.0, DType::U32));
            let draw = || g.scope("a", || rng.uniform([], DType::F32) + rng.normal([], DType::F32));
            let first = g.rehearse(draw);
            g.output("apart", first - draw());
            g.output("other", draw());
        });
    });
    let body = &module.function("f").unwrap().body;
    let stream = |op: &Op| match op {
        Op::Random(random) => Some(random.stream),
        _ => None,
    };
    let streams: Vec<u32> = body.insts.iter().filter_map(|i| stream(&i.op)).collect();
    assert_eq!(streams.len(), 6);
    assert_eq!(streams[..2], streams[2..4]);
    assert!(streams[4..].iter().all(|s| !streams[..4].contains(s)));
}

#[test]
fn all_methods_give_their_operation() {
    let (batch, d, _) = dims();
    let module = build(|p| {
        p.function("f", |g| {
            let x = g.input("x", DType::F32, [&batch, &d]);
            let i = g.iota(&batch, DType::S32);
            let k = Dim::new("k", 2);
            let (top, at) = x.top_k(&d, &k);
            let [keys, _] = sort([x, x + 1.0], "batch", true);
            let slots = Dim::new("slots", 6);
            let forward = g.iota(&slots, DType::S32);
            let y = x.permute_with_inverse(&batch, &slots, forward, i);
            let z =
                concat([y.slice(&slots, 1..3), y.slice_by("slots", .., 2)], &slots).pad("slots", 1, 2, -1.0);
            g.output(
                "z",
                z.merge([&slots, &d], "flat").split("flat", [&Dim::new("rows", 4), &Dim::new("columns", 8)]),
            );
            g.output("top", top.gather(&k, at.squeeze_last_of_batch()));
            g.output("keys", keys.softmax(&d).logsumexp([&batch, &d]));
            g.output("scatter", i.scatter_add(&slots, &batch, x));
            g.output("hot", i.one_hot(&slots, DType::F32).cumsum_exclusive(&slots).argmax("slots"));
            g.output("window", x.dynamic_slice(&batch, g.constant(1, DType::S32), 2).mean("batch"));
            let patch = x.slice(&batch, 0..2);
            g.output(
                "patched",
                x.dynamic_update(&batch, patch, g.constant(3, DType::S32)).shift_right("d_model", 1),
            );
            g.output("where", x.gt(0.0).select(x, -1.0).maximum(0.5).is_finite().all(["batch", "d_model"]));
            let loss = x.square().mean_all();
            g.output("grad", g.grad(loss, &[x])[0]);
        });
    });
    let text = ops(&module, "f").join("\n");
    for word in
        ["TopK", "Sort", "Permute", "Concat", "Pad", "Reshape", "Gather", "ScatterAdd", "Grad", "CumSum"]
    {
        assert!(text.contains(word), "{word}");
    }
    assert!(matches!(Op::Index(Index::TopK { dim: "a".into(), to: dims().0 }), Op::Index(_)));
    assert!(text.contains(&format!("{:?}", Op::Shape(Shape::Constant { dtype: DType::S32, value: 3.0 }))));
}

impl<'g> Tensor<'g> {
    /// The first row of the batch.
    fn squeeze_last_of_batch(self) -> Self {
        self.slice("batch", 0..1).squeeze("batch").rename("k", "j")
    }
}

#[test]
fn dims_are_taken_by_value_or_by_reference() {
    fn add<'g>(sum: Tensor<'g>, x: Tensor<'g>) -> (Tensor<'g>, Tensor<'g>) {
        (sum + x, x)
    }
    let by_reference = build(|p| {
        p.function("f", |g| {
            let (batch, d, k) = dims();
            let x = g.input("x", DType::F32, &d);
            let hot = g.iota(&d, DType::S32).one_hot(&k, DType::F32).sum(&k);
            let (sum, rows) = g.scan(&d, g.constant(0.0, DType::F32), x, add);
            g.output("y", hot + rows.top_k(&d, &d).0 + sum.broadcast(&batch).sum([&batch]));
        });
    });
    let by_value = build(|p| {
        p.function("f", |g| {
            let (batch, d, k) = dims();
            let x = g.input("x", DType::F32, d.clone());
            let hot = g.iota(d.clone(), DType::S32).one_hot(k.clone(), DType::F32).sum(k);
            let (sum, rows) = g.scan(d.clone(), g.constant(0.0, DType::F32), x, add);
            g.output("y", hot + rows.top_k(d.clone(), d).0 + sum.broadcast(batch.clone()).sum([batch]));
        });
    });
    assert_eq!(ops(&by_value, "f"), ops(&by_reference, "f"));
}

#[test]
fn unknown_dims_get_a_suggestion_and_one_mistake_is_reported_once() {
    let (batch, d, _) = dims();
    check(
        |p| {
            p.function("f", |g| {
                let x = g.input("x", DType::F32, [&batch, &d]);
                let y = x.sum("d_modle");
                let z = (y + 1.0).exp() * x;
                g.output("z", z);
                g.scope("head", || g.output("w", x.mean("lenght")));
            });
        },
        "model.rs:4:27: error[op_o2]: reduction: the tensor has no dim `d_modle` (in `f`)\n  help: did you mean \
         `d_model`? its dims are batch, d_model\n\
         model.rs:7:52: error[op_o2]: reduction: the tensor has no dim `lenght` (in `f`)\n  help: its dims are \
         batch, d_model",
    );
}

#[test]
fn einsum_suggests_a_dim_for_its_result() {
    let (batch, d, _) = dims();
    check(
        |p| {
            p.function("f", |g| {
                let x = g.input("x", DType::F32, [&batch, &d]);
                g.output("y", einsum([x], ["d_modle"]));
                g.output("z", einsum([x, x], ["bach"]));
            });
        },
        "model.rs:4:31: error[contract_c3]: einsum: the result's dim `d_modle` is not in the operand (in `f`)\n  \
         help: did you mean `d_model`? its dims are batch, d_model\n\
         model.rs:5:31: error[contract_c3]: einsum: the result's dim `bach` is in neither operand (in `f`)\n  \
         help: did you mean `batch`? operands: f32[batch=8, d_model=4] and f32[batch=8, d_model=4]",
    );
}

#[test]
fn a_meta_entry_knows_its_line() {
    let line = line!() + 1;
    let module = build(|p| p.meta("layout", "batch:data"));
    let site = &module.meta_entry("layout").expect("it was stated").site;
    assert_eq!((site.line, &*site.file), (line, file!()));
    assert_eq!(module.meta("layout"), Some("batch:data"));
}

#[test]
fn operators_report_the_operator() {
    let (batch, d, _) = dims();
    check(
        |p| {
            p.function("f", |g| {
                let x = g.input("x", DType::F32, [&batch, &d]);
                let i = g.input("i", DType::S32, [&batch]);
                let short = g.input("short", DType::F32, [&batch.sized(4)]);
                g.output("a", x + i);
                g.output("b", x * short);
                g.output("c", i * 0.5);
                g.output("d", -(x.gt(0.0)));
            });
        },
        "model.rs:6:31: error[elementwise_e1]: addition: one operand is f32, the other s32 (in `f`)\n  help: cast \
         one of the two; there are no implicit conversions\n\
         model.rs:7:31: error[op_o9]: multiplication: dim `batch` is 8 in one operand and 4 in the other (in `f`)\n  \
         help: dims of one name have one size; rename one of the two if they mean different things\n\
         model.rs:8:31: error[shape_s1]: 0.5 is not a number of type s32 (in `f`)\n\
         model.rs:9:31: error[op_o7]: negation takes a number, not pred (in `f`)\n  help: cast it",
    );
}

#[test]
fn a_reshape_that_does_not_divide_says_both_sides() {
    let (batch, d, _) = dims();
    check(
        |p| {
            p.function("f", |g| {
                let x = g.input("x", DType::F32, [&batch, &d]);
                g.output("y", x.split(&batch, [&Dim::new("group", 3), &Dim::new("rest", 2)]));
            });
        },
        "model.rs:4:33: error[shape_s7]: reshape of batch=8 (8 elements) to group=3·rest=2 (6 elements) (in `f`)\n  \
         help: both sides must have the same number of elements",
    );
}

#[test]
fn tensors_stay_in_their_function_and_their_body() {
    let (batch, _, layers) = dims();
    check(
        |p| {
            p.function("f", |g| {
                let x = g.input("x", DType::F32, [&batch]);
                let mut leaked = x;
                let (y, ()) = g.scan(&layers, x, (), |x, ()| {
                    leaked = x + 1.0;
                    (leaked, ())
                });
                g.output("y", y * leaked);
                p.function("h", |h| h.output("x", x + h.constant(1.0, DType::F32)));
            });
        },
        "model.rs:9:31: error: a tensor of a scan or conditional is used outside of it (in `f`)\n  \
         help: return it from the closure: a scan returns carries and stacked results\n\
         model.rs:10:51: error: a tensor of function `h` is used in function `f` (in `f`)\n  help: functions share only state: assign it to state, or pass it as an output and an input",
    );
}

#[test]
fn scans_check_what_they_slice_and_carry() {
    let (batch, d, layers) = dims();
    check(
        |p| {
            p.function("f", |g| {
                let x = g.input("x", DType::F32, [&batch, &d]);
                let stacked = g.input("stacked", DType::F32, [&layers.sized(2), &d]);
                g.output("a", g.scan(&layers, x, x, |x, y| (x + y, ())).0);
                g.output("b", g.scan(&layers, x, stacked, |x, y| (x + y, ())).0);
                g.output("c", g.scan(&layers, x, (), |x, ()| (x.sum(&d), ())).0);
                g.output("d", g.scan(&layers, vec![x], (), |x, ()| (vec![x[0], x[0]], ())).0[0]);
                g.output("e", g.iteration());
                let nothing = Dim::new("nothing", 0);
                g.output("f", g.scan(&nothing, x, (), |x, ()| (x * g.iteration().cast(DType::F32), ())).0);
                g.output("g", g.concat(&[], "batch"));
            });
        },
        "model.rs:5:33: error[control_k4]: scan over `layers` of f32[batch=8, d_model=4], which has no such dim (in \
         `f`)\n  help: use a tensor that is the same in all iterations directly in the closure\n\
         model.rs:6:33: error[control_k4]: scan over layers=3 of f32[layers=2, d_model=4], whose `layers` is 2 (in \
         `f`)\n  help: the dim looped over has one size in all operands\n\
         model.rs:7:33: error[control_k5]: the body of scan does not return its carries (in `f`)\n  help: \
         carries: f32[batch=8, d_model=4]; results: f32[batch=8]\n\
         model.rs:8:33: error[control_k5]: the scan over `layers` takes 1 carries and returns 2 (in `f`)\n  help: \
         return the same number of carries\n\
         model.rs:9:33: error: `iteration` is called outside of a scan (in `f`)\n  help: call it in the closure of a scan\n\
         model.rs:11:70: error[type_t2]: dim `nothing` has size 0 (in `f`)\n  help: every dim has at least one \
         element\n\
         model.rs:12:33: error[op_o1]: concat takes at least 1 operands, not 0 (in `f`)",
    );
}

#[test]
fn state_is_declared_once_and_assigned_once_at_the_top() {
    let (_, d, layers) = dims();
    check(
        |p| {
            let w = p.param("w", [&d], Init::Ones);
            p.function("f", |g| {
                w.assign(w.read(g).sum(&d));
                let x = w.read(g);
                g.scan(&layers, x, (), |x, ()| {
                    w.assign(x);
                    (x, ())
                });
            });
            p.param("v", [&d, &d], Init::Zeros);
            p.param("bad name", [&d], Init::Zeros);
            p.counter("step", DType::S32, Init::Normal(1.0));
            p.function("f", |g| g.output("y", g.input("x", DType::F32, [])));
        },
        "model.rs:4:19: error[state_a1]: state `w` has type f32[d_model=4], not f32[] (in `f`)\n  help: write a value of \
         the declared type\n\
         model.rs:7:23: error: state `w` is assigned inside a scan or a conditional (in `f`)\n  help: return the \
         value from the scan or conditional and assign it outside\n\
         model.rs:11:15: error[type_t1]: dim `d_model` appears twice in one tensor\n  help: rename one of the two: \
         dims of a tensor have different names\n\
         model.rs:12:15: error: `bad name` is not a valid name of a state\n  help: use a letter or `_`, then letters, digits, \
         `_`, `.`, `-` and `/`\n\
         model.rs:13:15: error: a random initial value of type s32\n  help: use a constant: only floats have random initial values\n\
         model.rs:14:15: error: function `f` is defined twice\n  help: give one of the two another name",
    );
}

#[test]
fn mistakes_of_several_functions_at_one_line_are_one_mistake() {
    let (batch, _, _) = dims();
    check(
        |p| {
            for name in ["f", "h"] {
                p.function(name, |g| {
                    let x = g.input("x", DType::S32, [&batch]);
                    g.output("y", x.exp());
                });
            }
        },
        "model.rs:5:37: error[op_o7]: this function takes a float, not s32 (in `f`)\n  help: cast it",
    );
}

#[test]
fn values_have_names_with_their_scope_and_captures_keep_them() {
    let (batch, d, layers) = dims();
    let module = build(|p| {
        let w = p.scope("net", || p.param("w", [&layers, &d], Init::Ones));
        p.function("f", |g| {
            let x = g.input("x", DType::F32, [&batch, &d]);
            let bias = g.scope("head", || g.scope("ffn", || (x * 2.0).named("bias")));
            let (y, ()) = g.scan(&layers, x, (), |x, ()| {
                g.scope("block", || ((x * w.read(g)).named("h"), (x + bias).named("h")));
                (x + bias, ())
            });
            g.output("y", y.named("y"));
        });
    });
    let text = crate::text::print(&module);
    for part in [
        "func f(%x: f32[batch=8, d_model=4])",
        "%head.ffn.bias = mul %x, ",
        "%net.w = read {state=net/w}",
        "%y = scan %x, %net.w, %head.ffn.bias {dim=layers=3, carries=1, xs=1, remat=save_all} \
         (%0: f32[batch=8, d_model=4], %net.w: f32[d_model=4], %head.ffn.bias: f32[batch=8, d_model=4]) {",
        "%block.h = mul %0, %net.w",
        "%block.h_2 = add %0, %head.ffn.bias",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn a_name_that_is_not_a_word_is_a_mistake() {
    check(
        |p| {
            p.function("f", |g| g.output("y", g.constant(1.0, DType::F32).named("2nd")));
        },
        "model.rs:2:75: error: `2nd` is not a valid name of a value (in `f`)\n  help: use a letter or `_`, then letters, \
         digits, `_`, `.`, `-` and `/`",
    );
}

#[test]
fn windows_name_a_dim_and_fit_it_and_the_kernel() {
    let (batch, d, _) = dims();
    let taps = Dim::new("taps", 3);
    check(
        |p| {
            p.function("f", |g| {
                let x = g.input("x", DType::F32, [&batch, &d]);
                let kernel = g.input("kernel", DType::F32, [&Dim::new("tap", 3), &d]);
                x.conv(kernel, &[Window::new(&batch, &taps)], [&batch, &d]);
                x.conv(kernel, &[Window::new(&batch, Dim::new("tap", 2))], [&batch, &d]);
                x.max_pool(&[Window::new("bath", &taps)]);
                x.mean_pool(&[Window::new(&batch, &taps).stride(0)]);
                x.max_pool(&[Window::new(&batch, &taps).dilation(4).edges(Edges::Inside)]);
            });
        },
        "model.rs:5:19: error[op_o2]: a window along `taps`: the kernel has no such dim (in `f`)\n  help: did you \
         mean `tap`? its dims are tap, d_model\n\
         model.rs:6:19: error[op_o9]: the window along `batch` has 2 taps, and the kernel 3 (in `f`)\n  help: `tap` \
         has one size in both\n\
         model.rs:7:19: error[op_o2]: a window along `bath`: the tensor has no such dim (in `f`)\n  help: did you \
         mean `batch`? its dims are batch, d_model\n\
         model.rs:8:19: error: a window along `batch` with 3 taps, stride 0 and dilation 1 (in `f`)\n  help: each is \
         at least 1\n\
         model.rs:9:19: error: a window of 9 elements along `batch`, which has 8 (in `f`)\n  help: use fewer taps, \
         or `Edges::Same`",
    );
}
