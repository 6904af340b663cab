//! Random meshes and legal layouts.

use super::rng::Rng;
use mesh::{Body, Env, Layout, Mesh, Module, Name, Type, infer::check_type, ir::Control};

/// Generates a mesh of 1 to 8 devices with 1 to 3 axes.
pub fn mesh(rng: &mut Rng) -> Mesh {
    let sizes = rng.one_of([
        "x=1",
        "x=2",
        "x=2",
        "x=3",
        "x=4",
        "x=4",
        "x=8",
        "x=2,y=2",
        "x=2,y=2",
        "x=2,y=4",
        "x=4,y=2",
        "x=2,y=3",
        "x=1,y=4",
        "x=2,y=2,z=2",
        "x=2,y=2,z=2",
        "x=2,y=1,z=4",
    ]);
    Mesh::parse(sizes).expect("the sizes above are well-formed")
}

/// Generates a layout that is legal for every value of the module, and a state layout. Rules are added in
/// random order while all types stay legal, so layouts are nearly maximal.
pub fn legal(rng: &mut Rng, module: &Module, mesh: &Mesh) -> (Layout, Layout) {
    let env = Env { mesh: mesh.clone(), ..Env::default() };
    let types = types(module);
    let looped = looped(module);
    let mut names: Vec<Name> = types.iter().flat_map(|ty| ty.names().cloned()).collect();
    names.sort();
    names.dedup();
    names.retain(|n| !looped.contains(n));
    let mut layout = Layout::default();
    for name in rng.shuffled(&names) {
        // Some dims stay whole.
        if rng.chance(25) {
            continue;
        }
        for _ in 0..3 {
            let mut fuller = layout.clone();
            fuller.rules.push((name.clone(), axes(rng, mesh)));
            if is_legal(&env, &types, &fuller) {
                layout = fuller;
                break;
            }
        }
    }
    (layout, state_layout(rng, module, mesh))
}

/// Picks one or two axes, in any order.
fn axes(rng: &mut Rng, mesh: &Mesh) -> Vec<Name> {
    let all: Vec<Name> = mesh.axes().iter().map(|a| a.name.clone()).collect();
    let mut axes = rng.shuffled(&all);
    axes.truncate(if rng.chance(75) { 1 } else { 2 });
    axes
}

fn is_legal(env: &Env, types: &[Type], layout: &Layout) -> bool {
    let map = layout.resolve(&env.mesh).expect("the layout has axes of this mesh only");
    types.iter().all(|ty| check_type(env, &map.apply(ty)).is_ok())
}

/// Generates a state layout. Any is legal: rules that do not fit a tensor are ignored for it.
fn state_layout(rng: &mut Rng, module: &Module, mesh: &Mesh) -> Layout {
    let mut rules: Vec<(Name, Vec<Name>)> = Vec::new();
    if rng.chance(40) {
        rules.push(("*".into(), axes(rng, mesh)));
    }
    let mut names: Vec<Name> =
        module.env.states.iter().flat_map(|(_, s)| s.ty.names().cloned().collect::<Vec<_>>()).collect();
    names.sort();
    names.dedup();
    for name in names {
        if rng.chance(20) {
            rules.push((name, axes(rng, mesh)));
        }
    }
    Layout { rules }
}

/// Returns the distinct types in the module.
pub(super) fn types(module: &Module) -> Vec<Type> {
    fn collect(body: &Body, all: &mut Vec<Type>) {
        for (_, value) in body.values.iter() {
            if !all.contains(&value.ty) {
                all.push(value.ty.clone());
            }
        }
        body.insts.iter().flat_map(|inst| inst.op.bodies()).for_each(|inner| collect(inner, all));
    }
    let mut all: Vec<Type> = module.env.states.iter().map(|(_, s)| s.ty.clone()).collect();
    module.functions.iter().for_each(|f| collect(&f.body, &mut all));
    all
}

/// Returns the dims that scans loop over, which are never split.
fn looped(module: &Module) -> Vec<Name> {
    let mut names = Vec::new();
    for function in &module.functions {
        function.body.walk(&mut |_, inst| {
            if let mesh::Op::Control(Control::Scan(scan)) = &inst.op {
                names.push(scan.dim.name.clone());
            }
        });
    }
    names
}
