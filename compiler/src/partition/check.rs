//! Checks of a layout against a program. All mistakes are reported, at the lines of the model that show them.

use super::drop_ones;
use mesh::{
    AxisSet, Body, Diagnostic, Diagnostics, Dim, Inst, Layout, Mesh, Module, Name, Site, TensorDim, Type,
    infer::divisor_help,
    ir::{Control, Op, Shape},
    layout::{AxisMap, suggest},
};
use proto::padded::{PADDED, entries};
use std::collections::{BTreeMap, BTreeSet};

/// Checks that a layout is legal for every value of a Global module: no axis splits two dims of one tensor,
/// sizes divide, scanned dims are not split, and every rule names a dim of the program. Each cause is
/// reported once, at the first place that shows it, with the number of other places.
pub fn check(global: &Module, mesh: &Mesh, compute: &AxisMap, state: &AxisMap) -> Result<(), Diagnostics> {
    let layout = drop_ones(compute, mesh);
    let mut found =
        Found { global, mesh, layout: &layout, causes: BTreeMap::new(), order: 0, dims: BTreeSet::new() };
    for (_, decl) in global.env.states.iter() {
        found.value(&decl.ty, &decl.site, None, None);
    }
    for f in &global.functions {
        for ty in f.body.param_types() {
            found.value(ty, &Site::default(), Some(&f.name), None);
        }
        found.body(&f.body, &f.name);
    }
    let mut mistakes = rules(global, mesh, &found.dims, [compute, state]);
    mistakes.extend(found.finish());
    if mistakes.is_empty() { Ok(()) } else { Err(Diagnostics(mistakes)) }
}

/// Reports rules for dims that no tensor has.
fn rules(global: &Module, mesh: &Mesh, dims: &BTreeSet<Name>, maps: [&AxisMap; 2]) -> Vec<Diagnostic> {
    let mut mistakes = Vec::new();
    for (map, (what, key)) in maps.into_iter().zip([("layout", "layout"), ("state layout", "state_layout")]) {
        let own = global.meta_entry(key).filter(|entry| is_own(map, &entry.value, mesh));
        let site = own.map(|entry| &entry.site).filter(|site| **site != Site::default());
        for name in map.dims().filter(|n| !dims.contains(*n)) {
            let known: Vec<&str> = dims.iter().map(|n| n.as_str()).collect();
            let help = match suggest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("dims of the program: {}", known.join(", ")),
            };
            let message = format!("the {what} splits dim `{name}`, which no tensor of the program has");
            let mistake = Diagnostic::new("layout_y1", message).help(help);
            mistakes.push(match site {
                Some(site) => mistake.at(site),
                None => mistake,
            });
        }
    }
    mistakes
}

/// True if `map` comes from `text`, the layout that the model states.
fn is_own(map: &AxisMap, text: &str, mesh: &Mesh) -> bool {
    let own = Layout::parse(text).and_then(|layout| layout.restricted_to(mesh).resolve(mesh));
    own.is_ok_and(|own| own == *map)
}

/// The dim that an operation gives another size, and its size in the first operand.
fn resized<'b>(body: &'b Body, inst: &'b Inst) -> Option<(&'b Name, usize)> {
    let Op::Shape(
        Shape::Slice { dim, start: _, limit: _, stride: _ }
        | Shape::Pad { dim, low: _, high: _, value: _ }
        | Shape::Concat { dim },
    ) = &inst.op
    else {
        return None;
    };
    Some((dim, body.ty(inst.args[0]).size(dim)?))
}

/// The cause of a mistake. Mistakes with the same cause are reported once.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    /// A dim of this size does not divide into shards.
    Size(Name, usize),
    /// Two dims of one tensor share an axis.
    Pair(Name, Name),
    /// A scan loops over this split dim.
    Scan(Name),
}

struct Seen {
    order: usize,
    mistake: Diagnostic,
    sites: BTreeSet<Site>,
}

struct Found<'f> {
    global: &'f Module,
    mesh: &'f Mesh,
    layout: &'f AxisMap,
    causes: BTreeMap<Cause, Seen>,
    order: usize,
    dims: BTreeSet<Name>,
}

impl Found<'_> {
    fn body(&mut self, body: &Body, function: &Name) {
        for inst in &body.insts {
            for r in &inst.results {
                self.value(body.ty(*r), &inst.site, Some(function), resized(body, inst));
            }
            if let Op::Control(Control::Scan(scan)) = &inst.op {
                self.scanned(&scan.dim.name, &inst.site, function);
            }
            for inner in inst.op.bodies() {
                self.body(inner, function);
            }
        }
    }

    fn scanned(&mut self, dim: &Name, site: &Site, function: &Name) {
        self.dims.insert(dim.clone());
        if self.layout.axes(dim).is_empty() {
            return;
        }
        let message = format!(
            "dim `{dim}` is split over {}, but the program loops over it one element at a time",
            self.axes(self.layout.axes(dim).iter().copied().collect())
        );
        let other = "leave it whole, or split another dim of the tensors inside the loop";
        let help = match dim.as_str() {
            "layers" => format!("{other}; stages of layers work at once with the schedule entry `stages`"),
            _ => other.to_owned(),
        };
        self.note(Cause::Scan(dim.clone()), "layout_y2", message, help, site, Some(function));
    }

    /// Checks a value; `resized` is a dim that the operation gave another size, and its size before.
    fn value(&mut self, ty: &Type, site: &Site, function: Option<&Name>, resized: Option<(&Name, usize)>) {
        for name in ty.names() {
            if !self.dims.contains(name) {
                self.dims.insert(name.clone());
            }
        }
        let ty = self.layout.apply(ty);
        for (i, d) in ty.dims.iter().enumerate() {
            let parts = self.mesh.product(&d.axes);
            if d.dim.size % parts != 0 {
                let before = resized.filter(|(name, _)| **name == d.dim.name).map(|(_, before)| before);
                self.size(d, parts, site, function, before);
            }
            for e in &ty.dims[..i] {
                let shared: AxisSet = e.axes.iter().copied().filter(|a| d.axes.contains(a)).collect();
                if !shared.is_empty() {
                    self.pair(&ty, e, d, shared, site, function);
                }
            }
        }
    }

    fn size(
        &mut self,
        d: &TensorDim,
        parts: usize,
        site: &Site,
        function: Option<&Name>,
        before: Option<usize>,
    ) {
        let message = format!(
            "dim `{}` of size {} does not divide into {parts} shards, one for each device along {}",
            d.dim.name,
            d.dim.size,
            self.axes(d.axes.iter().copied().collect())
        );
        let mut help = divisor_help(&d.dim.name, d.dim.size, parts);
        if let Some((setting, padding)) = self.padding(&d.dim, parts) {
            help += &format!("; or pad it with --set {setting}={padding}");
        }
        if let Some(before) = before.filter(|before| before.is_multiple_of(parts)) {
            help += &format!("; or leave it of size {before}: `shift` and `roll` move elements within a dim");
        }
        let cause = Cause::Size(d.dim.name.clone(), d.dim.size);
        self.note(cause, "layout_y3", message, help, site, function);
    }

    /// Returns the setting that pads a dim, and the padding with which it divides into `parts`. `None` means
    /// that the program cannot pad the dim: its meta entry `padded` does not list it.
    fn padding(&self, dim: &Dim, parts: usize) -> Option<(&str, usize)> {
        let mut all = entries(self.global.meta(PADDED)?);
        let (_, used, setting) = all.find(|(name, used, _)| **name == *dim.name && *used <= dim.size)?;
        Some((setting, used.next_multiple_of(parts) - used))
    }

    fn pair(
        &mut self,
        ty: &Type,
        a: &TensorDim,
        b: &TensorDim,
        shared: AxisSet,
        site: &Site,
        function: Option<&Name>,
    ) {
        let (a, b) = (a.dim.name.clone().min(b.dim.name.clone()), a.dim.name.clone().max(b.dim.name.clone()));
        let message = format!(
            "{} splits both `{a}` and `{b}` of one tensor, {}",
            self.axes(shared),
            ty.display(self.mesh)
        );
        let used = ty.split();
        let free: AxisSet =
            self.mesh.ids().filter(|x| !used.contains(*x) && self.mesh.size(*x) > 1).collect();
        let help = if free.is_empty() {
            format!(
                "no other axis is free for this tensor: leave `{a}` or `{b}` whole, or rename one of the two \
                 where they meet"
            )
        } else {
            format!("free for this tensor: {}; or leave `{a}` or `{b}` whole", self.axes(free))
        };
        self.note(Cause::Pair(a, b), "layout_y4", message, help, site, function);
    }

    fn axes(&self, axes: AxisSet) -> String {
        let words: Vec<String> =
            axes.iter().map(|a| format!("`{}={}`", self.mesh.name(a), self.mesh.size(a))).collect();
        format!("{} {}", if words.len() == 1 { "axis" } else { "axes" }, words.join(", "))
    }

    fn note(
        &mut self,
        cause: Cause,
        label: &'static str,
        message: String,
        help: String,
        site: &Site,
        function: Option<&Name>,
    ) {
        let order = self.order;
        self.order += 1;
        let seen = self.causes.entry(cause).or_insert_with(|| {
            let mut mistake = Diagnostic::new(label, message).help(help);
            if let Some(function) = function {
                mistake = mistake.in_function(function);
            }
            Seen { order, mistake, sites: BTreeSet::new() }
        });
        if site.line > 0 {
            // A line of the model is more helpful than an input of a function.
            seen.mistake = seen.mistake.clone().at(site);
            seen.sites.insert(site.clone());
        }
    }

    fn finish(self) -> Vec<Diagnostic> {
        let mut all: Vec<Seen> = self.causes.into_values().collect();
        all.sort_by_key(|seen| seen.order);
        let told = |seen: Seen| {
            let mut mistake = seen.mistake;
            let lines: BTreeSet<(Name, u32)> = seen.sites.iter().map(|s| (s.file.clone(), s.line)).collect();
            if lines.len() > 1 {
                let help = mistake.help.take().unwrap_or_default();
                mistake.help = Some(format!("{help} (the same at {} other lines)", lines.len() - 1));
            }
            mistake
        };
        all.into_iter().map(told).collect()
    }
}
