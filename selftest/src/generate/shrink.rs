//! Reduction of failing cases: removes results and layout rules, returns earlier values, and replaces values
//! by inputs, and parts of inner bodies by zeros, as long as the case fails.

use super::Case;
use compiler::interp::{self, Precision, Tensors};
use mesh::ir::{Shape, StateOp, ValueData};
use mesh::{Body, Inst, Module, Name, Op, Type, Value};

/// Returns the smallest case found for which `fails` returns a message, with that message. The given case has
/// one function and fails; `lower` runs autodiff, so that values can be computed.
pub fn shrink(
    case: Case,
    message: String,
    lower: &dyn Fn(&Module) -> Option<Module>,
    fails: &dyn Fn(&Case) -> Option<String>,
) -> (Case, String) {
    let mut shrinker = Shrinker { best: case, message, fails };
    // Each round tries all reductions once; a few rounds nearly reach a fixed point.
    for _ in 0..6 {
        let before = size(&shrinker.best);
        shrinker.fewer_results();
        shrinker.earlier_result();
        shrinker.cuts(lower);
        shrinker.zeros();
        shrinker.fewer_rules();
        if size(&shrinker.best) == before {
            break;
        }
    }
    (shrinker.best, shrinker.message)
}

struct Shrinker<'f> {
    best: Case,
    message: String,
    fails: &'f dyn Fn(&Case) -> Option<String>,
}

/// Returns the size of a case: instructions, inputs, results and layout rules.
fn size(case: &Case) -> usize {
    let mut count = case.layout.rules.len() + case.state_layout.rules.len();
    for function in &case.module.functions {
        count += function.inputs.len() + function.outputs.len();
        // Constants and broadcasts of constants count less than other instructions.
        function.body.walk(&mut |_, inst| {
            count += if matches!(inst.op, Op::Shape(Shape::Constant { .. })) { 1 } else { 4 };
        });
    }
    count
}

impl Shrinker<'_> {
    /// Accepts a smaller case if it fails too.
    fn attempt(&mut self, mut case: Case) -> bool {
        tidy(&mut case);
        if size(&case) >= size(&self.best) {
            return false;
        }
        match (self.fails)(&case) {
            Some(message) => {
                (self.best, self.message) = (case, message);
                true
            }
            None => false,
        }
    }

    fn body(&self) -> &Body {
        &self.best.module.functions[0].body
    }

    /// Returns the best case with a changed body.
    fn with(&self, change: impl FnOnce(&mut Body)) -> Case {
        let mut case = self.best.clone();
        change(&mut case.module.functions[0].body);
        case
    }

    fn fewer_results(&mut self) {
        for i in 0..self.body().results.len() {
            let mut case = self.best.clone();
            let function = &mut case.module.functions[0];
            function.body.insts.retain(|inst| !is_write(&inst.op));
            function.body.results = vec![function.body.results[i]];
            function.outputs = vec![function.outputs[i].clone()];
            if self.attempt(case) {
                return;
            }
        }
        let mut i = 0;
        while i < self.body().results.len() {
            let mut case = self.best.clone();
            case.module.functions[0].body.results.remove(i);
            case.module.functions[0].outputs.remove(i);
            i += usize::from(!self.attempt(case));
        }
        for i in (0..self.body().insts.len()).rev() {
            if self.body().insts.get(i).is_some_and(|inst| is_write(&inst.op)) {
                let case = self.with(|body| drop(body.insts.remove(i)));
                self.attempt(case);
            }
        }
    }

    /// Replaces all results by one of the first value that suffices, which drops what is computed from it.
    fn earlier_result(&mut self) {
        let Some(output) = self.best.module.functions[0].outputs.first().cloned() else { return };
        let values: Vec<Value> = self.body().insts.iter().flat_map(|inst| inst.results.clone()).collect();
        for value in values {
            let mut case = self.best.clone();
            let function = &mut case.module.functions[0];
            function.body.results = vec![value];
            function.outputs = vec![output.clone()];
            if self.attempt(case) {
                return;
            }
        }
    }

    /// Replaces results of instructions by inputs with the computed values.
    fn cuts(&mut self, lower: &dyn Fn(&Module) -> Option<Module>) {
        let mut i = self.body().insts.len();
        while i > 0 {
            i -= 1;
            let Some(inst) = self.body().insts.get(i).cloned() else { continue };
            if is_write(&inst.op) {
                continue;
            }
            let Some(values) = self.compute(&inst.results, lower) else { continue };
            let mut case = self.best.clone();
            let function = &mut case.module.functions[0];
            function.body.insts.remove(i);
            let inputs = case.inputs.get_mut(&function.name).expect("every function has inputs");
            for (value, tensor) in inst.results.iter().zip(values) {
                let name = (0..)
                    .map(|n| Name::from(format!("cut{n}")))
                    .find(|name| !function.inputs.contains(name))
                    .expect("a function has finitely many inputs");
                function.body.params.push(*value);
                function.body.values[*value].name = Some(name.clone());
                function.inputs.push(name.clone());
                inputs.insert(name, tensor);
            }
            self.attempt(case);
        }
    }

    /// Returns the values of the best case; `None` if it cannot run.
    fn compute(
        &self,
        values: &[Value],
        lower: &dyn Fn(&Module) -> Option<Module>,
    ) -> Option<Vec<interp::Tensor>> {
        let mut case = self.best.clone();
        let function = &mut case.module.functions[0];
        function.body.insts.retain(|inst| !is_write(&inst.op));
        function.body.results = values.to_vec();
        function.outputs = (0..values.len()).map(|i| format!("y{i}").into()).collect();
        tidy(&mut case);
        let name = case.module.functions[0].name.clone();
        let module = lower(&case.module)?;
        let outcome =
            interp::run(&module, &name, &case.inputs[&name], &case.state, Precision::Normal).ok()?;
        let outputs = &case.module.functions[0].outputs;
        Some(outputs.iter().map(|name| outcome.outputs[name].clone()).collect())
    }

    /// Replaces results of instructions, also in inner bodies, by zeros.
    fn zeros(&mut self) {
        let mut position = 0;
        loop {
            let mut case = self.best.clone();
            let mut rest = position;
            if !zero(&mut case.module.functions[0].body, &mut rest) {
                return;
            }
            self.attempt(case);
            position += 1;
        }
    }

    fn fewer_rules(&mut self) {
        let mut i = 0;
        while i < self.best.layout.rules.len() {
            let mut case = self.best.clone();
            case.layout.rules.remove(i);
            i += usize::from(!self.attempt(case));
        }
        i = 0;
        while i < self.best.state_layout.rules.len() {
            let mut case = self.best.clone();
            case.state_layout.rules.remove(i);
            i += usize::from(!self.attempt(case));
        }
    }
}

fn is_write(op: &Op) -> bool {
    matches!(op, Op::State(StateOp::Write(_)))
}

/// Replaces instruction `position`, counting those of inner bodies, by zeros of its types. Returns false if
/// there are fewer.
fn zero(body: &mut Body, position: &mut usize) -> bool {
    for i in 0..body.insts.len() {
        if *position == 0 {
            let inst = body.insts[i].clone();
            if !is_write(&inst.op) {
                let zeros = inst.results.iter().flat_map(|v| zeros(body, *v, &inst)).collect::<Vec<_>>();
                body.insts.splice(i..=i, zeros);
            }
            return true;
        }
        *position -= 1;
        for inner in body.insts[i].op.bodies_mut() {
            if zero(inner, position) {
                return true;
            }
        }
    }
    false
}

/// Returns instructions that define `value` as zeros.
fn zeros(body: &mut Body, value: Value, like: &Inst) -> Vec<Inst> {
    let ty = body.ty(value).clone();
    let constant = Op::Shape(Shape::Constant { dtype: ty.dtype, value: 0.0 });
    let inst = |op, args, result| Inst { op, args, results: vec![result], site: like.site.clone() };
    if ty.dims.is_empty() {
        return vec![inst(constant, vec![], value)];
    }
    let scalar = body.values.push(ValueData { ty: Type::scalar(ty.dtype), name: None });
    let broadcast = Op::Shape(Shape::Broadcast { dims: ty.dims });
    vec![inst(constant, vec![], scalar), inst(broadcast, vec![scalar], value)]
}

/// Removes dead instructions, inputs and values.
fn tidy(case: &mut Case) {
    for function in &mut case.module.functions {
        let kept = prune(&mut function.body, true);
        let mut keep = kept.iter();
        let inputs: &mut Tensors = case.inputs.get_mut(&function.name).expect("every function has inputs");
        function.inputs.retain(|name| {
            let keep = *keep.next().expect("every parameter was judged");
            if !keep {
                inputs.remove(name);
            }
            keep
        });
    }
    case.drop_idle_rules();
}

/// Removes dead instructions and undefined values from a body and the bodies inside, and, if allowed,
/// unused parameters. Returns true for each parameter that remains.
pub fn prune(body: &mut Body, drop_params: bool) -> Vec<bool> {
    let mut needed: Vec<bool> = vec![false; body.values.len()];
    body.results.iter().for_each(|v| needed[v.0 as usize] = true);
    let mut insts = Vec::new();
    for mut inst in std::mem::take(&mut body.insts).into_iter().rev() {
        if !is_write(&inst.op) && !inst.results.iter().any(|v| needed[v.0 as usize]) {
            continue;
        }
        inst.args.iter().for_each(|v| needed[v.0 as usize] = true);
        inst.op.bodies_mut().into_iter().for_each(|inner| drop(prune(inner, false)));
        insts.push(inst);
    }
    insts.reverse();
    let kept: Vec<bool> = body.params.iter().map(|v| !drop_params || needed[v.0 as usize]).collect();
    let old = std::mem::take(&mut body.values);
    let mut new: Vec<Option<Value>> = vec![None; old.len()];
    let mut define = |v: Value| {
        let value = body.values.push(old[v].clone());
        new[v.0 as usize] = Some(value);
        value
    };
    body.params = body.params.iter().zip(&kept).filter(|(_, keep)| **keep).map(|(v, _)| define(*v)).collect();
    for inst in &mut insts {
        inst.results = inst.results.iter().map(|v| define(*v)).collect();
    }
    let renamed = |v: &Value| new[v.0 as usize].expect("what is used is defined");
    for inst in &mut insts {
        inst.args = inst.args.iter().map(renamed).collect();
    }
    body.results = body.results.iter().map(renamed).collect();
    body.insts = insts;
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::case;
    use mesh::verify::Global;

    #[test]
    fn a_planted_mistake_is_all_that_stays() {
        // The simulated bug: a program fails if it contains a cumulative sum outside of inner bodies, which
        // would have to stay around it.
        let fails = |case: &Case| {
            Global::new(case.module.clone()).expect("what the shrinker makes is legal");
            let mut insts = case.module.functions[0].body.insts.iter();
            let found = insts.any(|inst| matches!(inst.op, Op::Index(mesh::ir::Index::CumSum { .. })));
            found.then(|| "cumsum".to_owned())
        };
        // A reduction drops dead code, which a real failure would not depend on.
        let live = |seed| {
            let mut case = case(seed, 1, 14);
            tidy(&mut case);
            case
        };
        let case = (0..).map(live).find(|case| fails(case).is_some()).unwrap();
        let (small, _) = shrink(case, "cumsum".into(), &|module| Some(module.clone()), &fails);
        assert!(size(&small) <= 12, "{}", mesh::text::print(&small.module));
        assert!(small.layout.rules.is_empty());
    }
}
