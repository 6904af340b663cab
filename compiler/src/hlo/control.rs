//! Scans and conditionals.

use super::{Computation, Emitter, Hlo, Shape, Tensor};
use crate::{
    cost::in_place::places,
    facts::{is_inline, only_cast},
};
use mesh::{
    Body, DType, Name, Type,
    ir::{Control, Scan},
};
use proto::xla::PrimitiveType;

/// The form in which a loop stores its arguments and stacked results.
struct Stores {
    /// The order of dims of each argument.
    orders: Vec<Vec<Name>>,
    /// The sizes of the separate dims of each argument that was gathered with small dims merged.
    separate: Vec<Option<Vec<usize>>>,
    /// The order of dims of each row of a stacked result.
    y_orders: Vec<Vec<Name>>,
    /// The argument whose buffer each stacked result is written to; `None` means a separate one.
    places: Vec<Option<usize>>,
}

impl<'m> Emitter<'m> {
    pub(super) fn control(&mut self, op: &'m Control, args: Vec<Tensor>) -> Vec<Tensor> {
        match op {
            Control::Scan(scan) => {
                let args = if scan.barrier { self.barrier(args) } else { args };
                if is_inline(scan) { self.unrolled(scan, args) } else { self.looped(scan, args) }
            }
            Control::Cond { then, otherwise } => self.cond(then, otherwise, args),
            Control::Grad => unreachable!("the verifier lets no gradient request into a Local module"),
        }
    }

    /// Returns copies of values that nothing before them is merged with.
    fn barrier(&mut self, args: Vec<Tensor>) -> Vec<Tensor> {
        if args.is_empty() {
            return args;
        }
        let values: Vec<Hlo> = args.iter().map(|x| x.hlo).collect();
        let given = self.b.tuple(&values);
        let all = self.b.barrier(given);
        let part = |(i, x): (usize, Tensor)| Tensor::new(self.b.part(all, i), x.order);
        args.into_iter().enumerate().map(part).collect()
    }

    // Unrolled scans.

    fn unrolled(&mut self, scan: &'m Scan, args: Vec<Tensor>) -> Vec<Tensor> {
        let mut carries = args[..scan.carries].to_vec();
        let (xs, captures) = args[scan.carries..].split_at(scan.xs);
        let mut ys: Vec<Vec<Tensor>> = vec![Vec::new(); scan.body.results.len() - scan.carries];
        for step in 0..scan.dim.size {
            let i = if scan.reverse { scan.dim.size - 1 - step } else { step };
            let slices: Vec<Tensor> = xs.iter().map(|x| self.static_row(x, &scan.dim.name, i)).collect();
            let params = carries.into_iter().chain(slices).chain(captures.iter().cloned()).collect();
            let mut results = self.body(&scan.body, params);
            for (all, y) in ys.iter_mut().zip(results.drain(scan.carries..)) {
                all.push(y);
            }
            carries = results;
        }
        let stacked = ys.into_iter().map(|mut rows| {
            if scan.reverse {
                rows.reverse();
            }
            self.stack(&rows, &scan.dim.name)
        });
        let stacked: Vec<Tensor> = stacked.collect();
        carries.into_iter().chain(stacked).collect()
    }

    /// Row `i` along `dim`, without the dim.
    fn static_row(&mut self, x: &Tensor, dim: &Name, i: usize) -> Tensor {
        let at = x.position(dim);
        let row = self.b.slice(x.hlo, at, i, i + 1, 1);
        self.without(row, &x.order, at)
    }

    fn without(&mut self, row: Hlo, order: &[Name], at: usize) -> Tensor {
        let (mut order, mut sizes) = (order.to_vec(), self.b.sizes(row));
        order.remove(at);
        sizes.remove(at);
        Tensor::new(self.b.reshape(row, &sizes), order)
    }

    /// Stacks rows along a new first dim.
    fn stack(&mut self, rows: &[Tensor], dim: &Name) -> Tensor {
        let order = rows[0].order.clone();
        let mut parts = Vec::new();
        for row in rows {
            let hlo = self.ordered(row, &order);
            let sizes = [&[1], &self.b.sizes(hlo)[..]].concat();
            parts.push(self.b.reshape(hlo, &sizes));
        }
        let order = [std::slice::from_ref(dim), &order[..]].concat();
        Tensor::new(self.b.concatenate(&parts, 0), order)
    }

    // Scans as loops. The tuple of the loop: the iteration number, carries, xs, captures, then the ys being
    // filled. Orders in memory are those of the arguments, the same in every iteration. A y that is an x with
    // something added is written over it.

    fn looped(&mut self, scan: &'m Scan, args: Vec<Tensor>) -> Vec<Tensor> {
        let zero = self.b.constant(PrimitiveType::S32, 0.0);
        let mut state = vec![zero];
        let merged = self.merged_slices(scan, &args);
        state.extend(args.iter().zip(&merged).map(|(x, merged)| match merged {
            Some((merged, _)) => *merged,
            None => x.hlo,
        }));
        let outputs: Vec<&Type> = scan.body.result_types().skip(scan.carries).collect();
        let places = places(scan);
        let y_orders: Vec<Vec<Name>> = outputs.iter().map(|ty| ty.names().cloned().collect()).collect();
        for ((ty, order), _) in outputs.iter().zip(&y_orders).zip(&places).filter(|(_, p)| p.is_none()) {
            let sizes = [&[scan.dim.size], &self.local_sizes(ty, order)[..]].concat();
            // The loop writes every row, so that the initial number does not matter. Equal numbers would be
            // one buffer to XLA, which would live as long as the last loop that starts with it, and be copied
            // for each.
            self.stacks += 1;
            state.push(self.b.splat(super::primitive(ty.dtype), f64::from(self.stacks), &sizes));
        }
        let init = self.b.tuple(&state);
        let shape = self.b.shape(init).clone();
        let orders: Vec<Vec<Name>> = args.iter().map(|x| x.order.clone()).collect();
        let metadata = self.b.metadata.clone();
        let separate = merged.into_iter().map(|m| m.map(|(_, sizes)| sizes)).collect();
        let stores = Stores { orders, separate, y_orders, places };
        let body = self.loop_body(scan, &shape, &stores);
        let Stores { orders, y_orders, places, .. } = stores;
        self.b.metadata = metadata;
        let condition = self.loop_condition(&shape, scan.dim.size);
        let done = self.b.while_loop(condition, body, init);
        let carried = (0..scan.carries).map(|i| (i + 1, orders[i].clone())).collect::<Vec<_>>();
        let mut fresh = 1 + args.len()..;
        let filled = y_orders.into_iter().zip(places).filter_map(|(order, place)| match place {
            Some(x) => Some((x + 1, orders[x].clone())),
            None => Some((fresh.next()?, [std::slice::from_ref(&scan.dim.name), &order[..]].concat())),
        });
        let parts: Vec<_> = carried.into_iter().chain(filled).collect();
        parts.into_iter().map(|(i, order)| Tensor::new(self.b.part(done, i), order)).collect()
    }

    /// For each sliced argument that was gathered with small dims merged: the merged value, and the sizes of
    /// its separate dims.
    fn merged_slices(&self, scan: &Scan, args: &[Tensor]) -> Vec<Option<(Hlo, Vec<usize>)>> {
        let places = places(scan);
        let merged = |(i, x): (usize, &Tensor)| {
            let sliced = scan.slices().contains(&i) && !places.contains(&Some(i));
            let merged = *self.merged.get(&x.hlo).filter(|_| sliced)?;
            let (one, separate) = (self.b.sizes(merged), self.b.sizes(x.hlo));
            let at = x.position(&scan.dim.name);
            // The scanned dim and those before it must be unchanged.
            (one.get(..=at) == separate.get(..=at)).then_some((merged, separate))
        };
        args.iter().enumerate().map(merged).collect()
    }

    fn loop_condition(&mut self, shape: &Shape, count: usize) -> Computation {
        self.b.begin("condition");
        let state = self.b.parameter(shape.clone(), "state");
        let step = self.b.part(state, 0);
        let count = self.b.constant(PrimitiveType::S32, count as f64);
        let more = self.b.compare("LT", step, count);
        self.b.end(more)
    }

    fn loop_body(&mut self, scan: &'m Scan, shape: &Shape, stores: &Stores) -> Computation {
        self.b.begin("body");
        let state = self.b.parameter(shape.clone(), "state");
        let step = self.b.part(state, 0);
        let row = if scan.reverse {
            let last = self.b.constant(PrimitiveType::S32, (scan.dim.size - 1) as f64);
            self.b.binary("subtract", last, step)
        } else {
            step
        };
        let (parts, params) = self.loop_params(scan, state, row, stores);
        let results = self.body(&scan.body, params);
        let one = self.b.constant(PrimitiveType::S32, 1.0);
        let mut next = vec![self.b.binary("add", step, one)];
        for (result, order) in results[..scan.carries].iter().zip(&stores.orders) {
            next.push(self.ordered(result, order));
        }
        next.extend(&parts[scan.carries..]);
        for ((y, order), place) in results[scan.carries..].iter().zip(&stores.y_orders).zip(&stores.places) {
            let (all, at, order) = match place {
                Some(x) => {
                    let at = stores.orders[*x].iter().position(|n| *n == scan.dim.name);
                    let at = at.expect("what is sliced has the scanned dim");
                    let rest = stores.orders[*x].iter().filter(|n| **n != scan.dim.name);
                    (parts[*x], at, rest.cloned().collect())
                }
                None => (self.b.part(state, next.len()), 0, order.clone()),
            };
            let filled = self.with_row(all, y, &order, at, row);
            match place {
                Some(x) => next[x + 1] = filled,
                None => next.push(filled),
            }
        }
        let root = self.b.tuple(&next);
        self.b.end(root)
    }

    /// The arguments of a loop, as they are in its `state`, and the parameters of one iteration: rows of the
    /// sliced arguments, the others whole.
    fn loop_params(&mut self, scan: &Scan, state: Hlo, row: Hlo, stores: &Stores) -> (Vec<Hlo>, Vec<Tensor>) {
        let mut parts = Vec::new();
        let mut params = Vec::new();
        for (i, (order, separate)) in stores.orders.iter().zip(&stores.separate).enumerate() {
            let hlo = self.b.part(state, i + 1);
            parts.push(hlo);
            let whole = Tensor::new(hlo, order.clone());
            if !scan.slices().contains(&i) {
                params.push(whole);
                continue;
            }
            let (mut piece, at) = self.row(&whole, &scan.dim.name, row);
            if let Some(sizes) = separate {
                let mut sizes = sizes.clone();
                sizes[at] = 1;
                piece = self.b.reshape(piece, &sizes);
            }
            if self.casts_slices && only_cast(&scan.body, scan.body.params[i]) == Some(DType::Bf16) {
                // Compilers would move a plain cast before the loop and hold the whole stack in both types.
                // Rounding to bfloat16 first does not change the result, and stays inside.
                piece = self.b.reduce_precision(piece, 8, 7);
            }
            params.push(self.without(piece, order, at));
        }
        (parts, params)
    }

    /// `all` with `y`, in `order`, written to its row `row` along dimension `at`.
    fn with_row(&mut self, all: Hlo, y: &Tensor, order: &[Name], at: usize, row: Hlo) -> Hlo {
        let y = self.ordered(y, order);
        let mut sizes = self.b.sizes(y);
        sizes.insert(at, 1);
        let y = self.b.reshape(y, &sizes);
        let starts = self.starts(sizes.len(), at, row);
        self.b.dynamic_update_slice(all, y, &starts)
    }

    /// The row along `dim` at the position `row`, a scalar, and the axis of `dim`.
    fn row(&mut self, x: &Tensor, dim: &Name, row: Hlo) -> (Hlo, usize) {
        let at = x.position(dim);
        let mut sizes = self.b.sizes(x.hlo);
        sizes[at] = 1;
        let starts = self.starts(sizes.len(), at, row);
        (self.b.dynamic_slice(x.hlo, &starts, &sizes), at)
    }

    // Conditionals. Results have the order of their types.

    fn cond(&mut self, then: &'m Body, otherwise: &'m Body, args: Vec<Tensor>) -> Vec<Tensor> {
        let operands: Vec<Hlo> = args[1..].iter().map(|x| x.hlo).collect();
        let given = self.b.tuple(&operands);
        let shape = self.b.shape(given).clone();
        let orders: Vec<Vec<Name>> = then.result_types().map(|ty| ty.names().cloned().collect()).collect();
        let metadata = self.b.metadata.clone();
        let mut result = Shape::Tuple(Vec::new());
        let branches = [then, otherwise].map(|body| {
            self.b.begin("branch");
            let given = self.b.parameter(shape.clone(), "given");
            let part = |e: &mut Self, i: usize, x: &Tensor| Tensor::new(e.b.part(given, i), x.order.clone());
            let params = args[1..].iter().enumerate().map(|(i, x)| part(self, i, x)).collect();
            let results = self.body(body, params);
            let results: Vec<Hlo> = results.iter().zip(&orders).map(|(r, o)| self.ordered(r, o)).collect();
            let root = self.b.tuple(&results);
            result = self.b.shape(root).clone();
            self.b.end(root)
        });
        self.b.metadata = metadata;
        let done = self.b.conditional(args[0].hlo, given, branches, result);
        orders.into_iter().enumerate().map(|(i, order)| Tensor::new(self.b.part(done, i), order)).collect()
    }
}
