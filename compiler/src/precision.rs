//! Proof of selective precision by data flow (section 2.4 of the Switch Transformers paper): routers compute
//! in f32, and tokens are exchanged in bf16.
//!
//! A router is not found by its name. It is the computation from a product of the token to a decision: a
//! comparison, a maximum, a sort or a conversion whose result becomes the index of an operation that moves
//! values to expert slots. [`routers`] follows each index back to its decisions, and each decision back to
//! the products and their inputs, through loops and branches. It works on the program as its author wrote it,
//! so that mistakes are at lines of the model. [`exchanges`] looks at the all-to-alls of a Local program.

use crate::facts::is_view;
use mesh::{
    Body, DType, Diagnostic, Diagnostics, Inst, Module, Op, Site, Type,
    ir::{Collective, Control, Elementwise, Index, Unary},
    task::TaskKind,
};
use rustc_hash::{FxHashMap, FxHashSet};

/// The routers of a program.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Routers {
    /// The products whose results decide where values go, one for each router.
    pub products: Vec<Site>,
    /// The places where a router's values are rounded by `round_bf16`, as a model does that follows another
    /// system.
    pub rounded: Vec<Site>,
}

/// True if the program states that its precision is selective.
pub fn is_selective(module: &Module) -> bool {
    module.meta("dtype") == Some("selective")
}

/// Finds the routers of a verified Global module, and reports everything in them that is bf16 or was rounded
/// to bf16 on the way.
pub fn routers(module: &Module) -> Result<Routers, Diagnostics> {
    let mut found = Routers::default();
    let mut mistakes: Vec<Diagnostic> = Vec::new();
    // Beam search and sampling choose tokens, which is no routing.
    let decodes = matches!(module.task.as_ref().map(|task| task.kind), Some(TaskKind::Generate(_)));
    for function in &module.functions {
        let flow = Flow::of(&function.body);
        for decision in flow.decisions(!decodes) {
            let router = flow.router(decision);
            for (site, what) in router.narrow {
                let mistake = Diagnostic::new("", format!("a router in a program of selective precision {what}"))
                    .help("keep f32 from the input of the router's product to the choice of experts, and cast after it")
                    .at(&site)
                    .in_function(&function.name);
                if mistakes.iter().all(|m| m.site != mistake.site) {
                    mistakes.push(mistake);
                }
            }
            for (all, these) in [(&mut found.products, router.products), (&mut found.rounded, router.rounded)]
            {
                all.extend(these);
                all.sort();
                all.dedup();
            }
        }
    }
    if mistakes.is_empty() { Ok(found) } else { Err(Diagnostics(mistakes)) }
}

/// Reports the all-to-alls of a Local module that send f32.
pub fn exchanges(module: &Module) -> Result<(), Diagnostics> {
    let mut mistakes: Vec<Diagnostic> = Vec::new();
    for function in &module.functions {
        function.body.walk(&mut |body, inst| {
            let sent = || body.ty(inst.args[0]).dtype;
            if matches!(inst.op, Op::Collective(Collective::AllToAll { .. }))
                && sent() == DType::F32
                && mistakes.iter().all(|m| m.site.as_ref() != Some(&inst.site))
            {
                let message = "f32 is sent by an all-to-all in a program of selective precision";
                let help = "cast to bf16 before tokens go to experts and before they return";
                mistakes
                    .push(Diagnostic::new("", message).help(help).at(&inst.site).in_function(&function.name));
            }
        });
    }
    if mistakes.is_empty() { Ok(()) } else { Err(Diagnostics(mistakes)) }
}

/// A value of a function or of one of its nested bodies.
type Node = usize;

/// A value's origin.
struct Origin<'m> {
    ty: &'m Type,
    /// The instruction that computes it; `None` for parameters of bodies and results of loops and branches.
    inst: Option<&'m Inst>,
    /// The values that it is computed from, or that it may be equal to.
    from: Vec<Node>,
}

/// The data flow of a function, with loops and branches resolved.
struct Flow<'m> {
    values: Vec<Origin<'m>>,
    /// The values that are computed from each value.
    uses: Vec<Vec<Node>>,
    /// Values that leave the function, or are stored.
    leaves: FxHashSet<Node>,
}

/// The computation before one decision.
#[derive(Default)]
struct Router {
    products: Vec<Site>,
    rounded: Vec<Site>,
    narrow: Vec<(Site, &'static str)>,
}

impl<'m> Flow<'m> {
    fn of(body: &'m Body) -> Self {
        let mut flow = Self { values: Vec::new(), uses: Vec::new(), leaves: FxHashSet::default() };
        let results = flow.body(body, vec![Vec::new(); body.params.len()]).1;
        flow.leaves.extend(results);
        flow.uses = vec![Vec::new(); flow.values.len()];
        for (to, value) in flow.values.iter().enumerate() {
            value.from.iter().for_each(|from| flow.uses[*from].push(to));
        }
        flow
    }

    fn add(&mut self, ty: &'m Type, inst: Option<&'m Inst>, from: Vec<Node>) -> Node {
        self.values.push(Origin { ty, inst, from });
        self.values.len() - 1
    }

    /// Adds the values of a body whose parameters may be equal to `given`. Returns its parameters and
    /// results.
    fn body(&mut self, body: &'m Body, given: Vec<Vec<Node>>) -> (Vec<Node>, Vec<Node>) {
        let mut nodes: FxHashMap<mesh::Value, Node> = FxHashMap::default();
        for (value, from) in body.params.iter().zip(given) {
            nodes.insert(*value, self.add(body.ty(*value), None, from));
        }
        let params = body.params.iter().map(|v| nodes[v]).collect();
        for inst in &body.insts {
            let args: Vec<Node> = inst.args.iter().map(|v| nodes[v]).collect();
            for (i, from) in self.results(inst, &args).into_iter().enumerate() {
                let of_body = !inst.op.bodies().is_empty();
                let by = (!of_body).then_some(inst);
                nodes.insert(inst.results[i], self.add(body.ty(inst.results[i]), by, from));
            }
        }
        (params, body.results.iter().map(|v| nodes[v]).collect())
    }

    /// The values that each result of an instruction comes from.
    fn results(&mut self, inst: &'m Inst, args: &[Node]) -> Vec<Vec<Node>> {
        match &inst.op {
            Op::Control(Control::Scan(scan)) => {
                let (params, results) = self.body(&scan.body, args.iter().map(|arg| vec![*arg]).collect());
                for (param, result) in params.iter().zip(&results[..scan.carries]) {
                    self.values[*param].from.push(*result);
                }
                results.into_iter().map(|result| vec![result]).collect()
            }
            Op::Control(Control::Cond { then, otherwise }) => {
                let given = || args[1..].iter().map(|arg| vec![*arg]).collect();
                let (then, otherwise) = (self.body(then, given()).1, self.body(otherwise, given()).1);
                then.into_iter().zip(otherwise).map(|(a, b)| vec![a, b]).collect()
            }
            Op::State(_) => {
                self.leaves.extend(args);
                vec![Vec::new(); inst.results.len()]
            }
            Op::Control(Control::Grad)
            | Op::Elementwise(_)
            | Op::Contract(_)
            | Op::Reduce(_)
            | Op::Shape(_)
            | Op::Index(_)
            | Op::Random(_)
            | Op::Collective(_) => vec![args.to_vec(); inst.results.len()],
        }
    }

    fn is_float(&self, node: Node) -> bool {
        self.values[node].ty.dtype.is_float()
    }

    /// The float values that decide the indices of moves: every index is followed back through whole numbers
    /// and truth values. `gathers` is true if a gather of floats counts as a move.
    fn decisions(&self, gathers: bool) -> Vec<Node> {
        let mut next: Vec<Node> = self.values.iter().flat_map(|value| self.indices(value, gathers)).collect();
        let (mut seen, mut decisions) = (FxHashSet::default(), Vec::new());
        while let Some(node) = next.pop() {
            if !seen.insert(node) {
                continue;
            }
            if self.is_float(node) {
                decisions.push(node);
            } else {
                next.extend(&self.values[node].from);
            }
        }
        decisions.sort_unstable();
        decisions
    }

    /// The operands by which the operation of `value` moves other values.
    fn indices(&self, value: &Origin, gathers: bool) -> Vec<Node> {
        let Some(Op::Index(op)) = value.inst.map(|inst| &inst.op) else { return Vec::new() };
        match op {
            Index::OneHot { dim: _, dtype: _ } | Index::ScatterAdd { dim: _, over: _ } => vec![value.from[0]],
            Index::ScatterExtreme { kind: _, dim: _, over: _ } => vec![value.from[1]],
            Index::Permute { dim: _, to: _ } => value.from[1..].to_vec(),
            Index::Gather { dim: _, outside: _ } if gathers && value.ty.dtype.is_float() => {
                vec![value.from[1]]
            }
            Index::Gather { dim: _, outside: _ }
            | Index::TopK { dim: _, to: _ }
            | Index::Sort { dim: _, descending: _ }
            | Index::CumSum { dim: _, exclusive: _, reverse: _ }
            | Index::DynamicSlice { dim: _, size: _ }
            | Index::DynamicUpdate { dim: _ } => Vec::new(),
        }
    }

    /// Follows a decision back to products, and from there to the inputs of the products. Without a product
    /// there is no router: positions and random numbers decide too.
    fn router(&self, decision: Node) -> Router {
        let mut router = Router::default();
        let (mut seen, mut inputs, mut next) = (FxHashSet::default(), Vec::new(), vec![decision]);
        while let Some(node) = next.pop() {
            if !self.is_float(node) || !seen.insert(node) {
                continue;
            }
            let value = &self.values[node];
            let Some(inst) = value.inst else {
                next.extend(&value.from);
                continue;
            };
            if value.ty.dtype == DType::Bf16 {
                router.narrow.push((inst.site.clone(), "computes in bf16 here"));
            }
            if matches!(inst.op, Op::Contract(_)) {
                router.products.push(inst.site.clone());
                if value.from.iter().any(|arg| self.values[*arg].ty.dtype == DType::Bf16) {
                    router.narrow.push((inst.site.clone(), "multiplies bf16 here"));
                }
                inputs.extend(&value.from);
                continue;
            }
            if matches!(inst.op, Op::Elementwise(Elementwise::Unary(Unary::RoundBf16))) {
                router.rounded.push(inst.site.clone());
            }
            next.extend(&value.from);
        }
        if router.products.is_empty() {
            return Router::default();
        }
        self.inputs(inputs, &mut router);
        router
    }

    /// Follows the f32 inputs of a router's product back to the tokens and parameters, which may be bf16.
    fn inputs(&self, mut next: Vec<Node>, router: &mut Router) {
        let (mut seen, mut tokens) = (FxHashSet::default(), Vec::new());
        while let Some(node) = next.pop() {
            let value = &self.values[node];
            if value.ty.dtype != DType::F32 || !seen.insert(node) {
                continue;
            }
            let made_by = |is: fn(&Op) -> bool| value.inst.is_some_and(|inst| is(&inst.op));
            if made_by(|op| matches!(op, Op::Elementwise(Elementwise::Cast(_)))) {
                tokens.push(value.from[0]);
            } else if !made_by(|op| matches!(op, Op::Contract(_))) {
                next.extend(&value.from);
            }
        }
        for mut node in tokens {
            // A bf16 token is also dispatched. A bf16 value that only this router uses was rounded for it.
            while self.only_for(node, &seen) {
                match self.values[node].inst {
                    Some(inst) if is_view(&inst.op) => node = self.values[node].from[0],
                    Some(inst) if is_rounding(&inst.op) && self.values[node].ty.dtype == DType::Bf16 => {
                        router.narrow.push((inst.site.clone(), "rounds its input to bf16 here"));
                        break;
                    }
                    Some(_) | None => break,
                }
            }
        }
    }

    /// True if `node` is used only to compute values in `router`.
    fn only_for(&self, node: Node, router: &FxHashSet<Node>) -> bool {
        let is_view = |user: Node| self.values[user].inst.is_some_and(|inst| is_view(&inst.op));
        !self.leaves.contains(&node)
            && self.uses[node]
                .iter()
                .all(|user| router.contains(user) || (is_view(*user) && self.only_for(*user, router)))
    }
}

/// True if a bf16 result of `op` is rounded.
fn is_rounding(op: &Op) -> bool {
    match op {
        Op::Elementwise(_) | Op::Contract(_) | Op::Reduce(_) => true,
        Op::Shape(_) | Op::Index(_) | Op::Random(_) | Op::State(_) | Op::Control(_) | Op::Collective(_) => {
            false
        }
    }
}

#[cfg(test)]
mod tests;
