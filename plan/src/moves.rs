//! Single changes of a candidate: rules of its layouts, sizes of its axes, and entries of its schedule.

use crate::{
    candidate::Candidate,
    space::{Fixed, Space},
};
use mesh::{Axis, Function, Layout, Mesh, Module, Name, Type};
use std::collections::{BTreeMap, BTreeSet};

/// Number of dims that rules are tried for: those of the largest tensors.
const DIMS: usize = 20;

/// Number of axes that a mesh may have.
const AXES: usize = 4;

/// Names of new axes, in the order of [`crate::space`]: those of a model's own layout are used first.
const NAMES: [&str; AXES] = ["data", "expert", "inner", "model"];

/// Returns the names of the dims of the function's tensors, those with the most bytes first.
pub fn dims(module: &Module, function: &Function) -> Vec<Name> {
    let mut bytes: BTreeMap<Name, f64> = BTreeMap::new();
    let mut count = |ty: &Type| {
        let of_type = ty.dims.iter().map(|d| d.dim.size as f64).product::<f64>();
        for d in ty.dims.iter().filter(|d| d.dim.size > 1) {
            *bytes.entry(d.dim.name.clone()).or_default() += of_type * ty.dtype.bytes() as f64;
        }
    };
    module.env.states.iter().for_each(|(_, state)| count(&state.ty));
    let body = &function.body;
    body.params.iter().for_each(|value| count(&body.values[*value].ty));
    body.walk(&mut |body, inst| inst.results.iter().for_each(|value| count(&body.values[*value].ty)));
    let mut dims: Vec<(Name, f64)> = bytes.into_iter().collect();
    dims.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    dims.into_iter().take(DIMS).map(|(name, _)| name).collect()
}

/// Returns the candidates with one rule: every dim split over all devices, with and without a state layout.
/// The search begins with them if the program states no layout. What the user has fixed stays.
pub fn first(space: &Space) -> Vec<Candidate> {
    let one_axis = || Mesh::parse(&format!("data={}", space.devices)).ok();
    let Some(mesh) = space.fixed.mesh.clone().or_else(one_axis) else { return Vec::new() };
    let axes: Vec<Name> = mesh.axes().iter().map(|a| a.name.clone()).collect();
    let all = |dim: &Name| Layout { rules: vec![(dim.clone(), axes.clone())] };
    let states = match &space.fixed.state_layout {
        Some(layout) => vec![layout.restricted_to(&mesh)],
        None => vec![Layout::default(), all(&"*".into())],
    };
    let one_rule = |dim: &Name| {
        let layout = all(dim).to_string();
        let with = |state: &Layout| Candidate {
            mesh: mesh.to_string(),
            layout: layout.clone(),
            state_layout: state.to_string(),
            ..Candidate::default()
        };
        states.iter().map(with).collect::<Vec<_>>()
    };
    space.dims.iter().flat_map(one_rule).collect()
}

/// Returns all candidates that differ from `candidate` by one change of what the user has not fixed.
pub fn neighbours(space: &Space, candidate: &Candidate) -> Vec<Candidate> {
    let Ok(placement) = candidate.placement() else { return Vec::new() };
    let Fixed { mesh, layout, state_layout } = &space.fixed;
    let with = |mesh: &Mesh, layout: &Layout, state: &Layout| Candidate {
        mesh: mesh.to_string(),
        layout: layout.to_string(),
        state_layout: state.to_string(),
        schedule: candidate.schedule.clone(),
    };
    let axes: Vec<Name> = placement.mesh.axes().iter().map(|a| a.name.clone()).collect();
    let mut all = BTreeSet::new();
    if layout.is_none() {
        let changed = rules(&placement.layout, &space.dims, &axes);
        all.extend(changed.iter().map(|layout| with(&placement.mesh, layout, &placement.state_layout)));
    }
    if state_layout.is_none() {
        let changed = rules(&placement.state_layout, &["*".into()], &axes);
        all.extend(changed.iter().map(|state| with(&placement.mesh, &placement.layout, state)));
    }
    if mesh.is_none() {
        for mesh in resized(&placement.mesh) {
            let (layout, state) =
                (placement.layout.restricted_to(&mesh), placement.state_layout.restricted_to(&mesh));
            all.insert(with(&mesh, &layout, &state));
        }
        // A new axis begins in all rules of the one that it is a part of; other changes take it out of them.
        if layout.is_none() && state_layout.is_none() {
            let divided = divided(&placement.mesh);
            all.extend(divided.iter().map(|(mesh, from, new)| {
                with(
                    mesh,
                    &extended(&placement.layout, from, new),
                    &extended(&placement.state_layout, from, new),
                )
            }));
        }
    }
    all.extend(entries(space, &candidate.schedule).into_iter().map(|schedule| candidate.with(schedule)));
    all.remove(candidate);
    all.into_iter().collect()
}

/// Returns the layouts with one axis more or less in one rule, or with one axis in another rule.
fn rules(layout: &Layout, dims: &[Name], axes: &[Name]) -> Vec<Layout> {
    let mut all = Vec::new();
    for axis in axes {
        let without: Vec<Layout> = layout
            .rules
            .iter()
            .filter(|(_, axes)| axes.contains(axis))
            .map(|(dim, _)| removed(layout, dim, axis))
            .collect();
        for dim in dims {
            all.extend(without.iter().chain([layout]).filter_map(|layout| added(layout, dim, axis)));
        }
        all.extend(without);
    }
    all
}

/// Returns the layout with `axis` as the minor axis of `dim`. `None` means that the dim has it already.
fn added(layout: &Layout, dim: &Name, axis: &Name) -> Option<Layout> {
    let mut rules = layout.rules.clone();
    match rules.iter_mut().find(|(d, _)| d == dim) {
        Some((_, axes)) if axes.contains(axis) => return None,
        Some((_, axes)) => axes.push(axis.clone()),
        None => rules.push((dim.clone(), vec![axis.clone()])),
    }
    Some(Layout { rules })
}

fn removed(layout: &Layout, dim: &Name, axis: &Name) -> Layout {
    let mut rules = layout.rules.clone();
    rules.iter_mut().filter(|(d, _)| d == dim).for_each(|(_, axes)| axes.retain(|a| a != axis));
    rules.retain(|(_, axes)| !axes.is_empty());
    Layout { rules }
}

/// Returns the layout with `new` after `axis` in every rule that has `axis`.
fn extended(layout: &Layout, axis: &Name, new: &Name) -> Layout {
    let mut rules = layout.rules.clone();
    for (_, axes) in &mut rules {
        if let Some(i) = axes.iter().position(|a| a == axis) {
            axes.insert(i + 1, new.clone());
        }
    }
    Layout { rules }
}

/// Returns the meshes in which a prime factor of one axis belongs to another, or two neighbours are swapped.
/// Axes of size 1 are omitted.
fn resized(mesh: &Mesh) -> Vec<Mesh> {
    let mut all = Vec::new();
    for (i, from) in mesh.axes().iter().enumerate() {
        for factor in primes(from.size) {
            for j in (0..mesh.axes().len()).filter(|j| *j != i) {
                let mut axes = mesh.axes().to_vec();
                axes[i].size /= factor;
                axes[j].size *= factor;
                axes.retain(|a| a.size > 1);
                all.extend(Mesh::new(axes));
            }
        }
        if i > 0 {
            let mut axes = mesh.axes().to_vec();
            axes.swap(i - 1, i);
            all.extend(Mesh::new(axes));
        }
    }
    all
}

/// Returns the meshes in which a prime factor of one axis is a new axis after it, with the names of both.
fn divided(mesh: &Mesh) -> Vec<(Mesh, Name, Name)> {
    let is_free = |name: &&&str| mesh.find(name).is_none();
    let Some(new) = NAMES.iter().find(is_free).filter(|_| mesh.axes().len() < AXES) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for (i, from) in mesh.axes().iter().enumerate() {
        for factor in primes(from.size).into_iter().filter(|factor| *factor < from.size) {
            let mut axes = mesh.axes().to_vec();
            axes[i].size /= factor;
            axes.insert(i + 1, Axis { name: (*new).into(), size: factor });
            all.extend(Mesh::new(axes).map(|mesh| (mesh, from.name.clone(), Name::from(*new))));
        }
    }
    all
}

/// Returns the prime factors of `n`, each once.
fn primes(n: usize) -> Vec<usize> {
    let mut rest = n;
    let mut found = Vec::new();
    let mut factor = 2;
    while factor * factor <= rest {
        if rest.is_multiple_of(factor) {
            found.push(factor);
            while rest.is_multiple_of(factor) {
                rest /= factor;
            }
        }
        factor += 1;
    }
    if rest > 1 {
        found.push(rest);
    }
    found
}

/// Returns the schedules with another value of one entry, the model's own included.
fn entries(space: &Space, schedule: &[String]) -> Vec<Vec<String>> {
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut all = Vec::new();
    for values in space.entries.iter().chain(&space.changes) {
        let Some(searched) = values.first().map(|value| key(value)) else { continue };
        // The entries of a schedule have one order, so that equal schedules are equal.
        let position = schedule.iter().position(|entry| key(entry) == searched);
        let mut rest = schedule.to_vec();
        if let Some(i) = position {
            rest.remove(i);
            all.push(rest.clone());
        }
        all.extend(values.iter().map(|value| {
            let mut schedule = rest.clone();
            schedule.push(value.clone());
            in_order(space, schedule)
        }));
    }
    all
}

/// Returns the entries of a schedule in the order of the space.
fn in_order(space: &Space, mut schedule: Vec<String>) -> Vec<String> {
    let all = space.entries.iter().chain(&space.changes);
    schedule.sort_by_cached_key(|entry| all.clone().position(|values| values.contains(entry)));
    schedule
}

/// Returns a form that is equal for placements that differ in the names of their axes only.
pub fn canonical(candidate: &Candidate) -> Candidate {
    let Ok(placement) = candidate.placement() else { return candidate.clone() };
    let axes = placement.mesh.axes();
    let renamed = |name: &Name| {
        let at = axes.iter().position(|axis| axis.name == *name);
        at.map_or_else(|| name.clone(), |i| Name::from(format!("axis{i}")))
    };
    let layout = |layout: &Layout| {
        let mut rules: Vec<(Name, Vec<Name>)> = layout
            .rules
            .iter()
            .map(|(dim, axes)| (dim.clone(), axes.iter().map(&renamed).collect()))
            .collect();
        rules.sort();
        Layout { rules }.to_string()
    };
    let sizes: Vec<String> = axes.iter().map(|axis| axis.size.to_string()).collect();
    Candidate {
        schedule: candidate.schedule.clone(),
        mesh: sizes.join(","),
        layout: layout(&placement.layout),
        state_layout: layout(&placement.state_layout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(mesh: &str, layout: &str, state: &str) -> Candidate {
        let text = str::to_owned;
        Candidate {
            mesh: text(mesh),
            layout: text(layout),
            state_layout: text(state),
            ..Candidate::default()
        }
    }

    fn space(fixed: Fixed) -> Space {
        let dims = ["a", "b"].map(Name::from).to_vec();
        Space { dims, fixed, entries: vec![vec!["x=1".into(), "x=2".into()]], ..Space::default() }
    }

    #[track_caller]
    fn check(fixed: Fixed, of: Candidate, expected: &[(&str, &str, &str, &str)]) {
        let found = neighbours(&space(fixed), &of);
        let found: BTreeSet<(String, String, String, String)> =
            found.into_iter().map(|c| (c.mesh, c.layout, c.state_layout, c.schedule.join(" "))).collect();
        let expected = expected.iter().map(|(mesh, layout, state, schedule)| {
            ((*mesh).to_owned(), (*layout).to_owned(), (*state).to_owned(), (*schedule).to_owned())
        });
        assert_eq!(found, expected.collect());
    }

    #[test]
    fn neighbours_differ_by_one_change() {
        let expected = [
            ("data=6", "", "", ""),
            ("data=6", "a:data,b:data", "", ""),
            ("data=6", "b:data", "", ""),
            ("data=6", "a:data", "*:data", ""),
            ("data=3,expert=2", "a:data+expert", "", ""),
            ("data=2,expert=3", "a:data+expert", "", ""),
            ("data=6", "a:data", "", "x=1"),
            ("data=6", "a:data", "", "x=2"),
        ];
        check(Fixed::default(), candidate("data=6", "a:data", ""), &expected);
    }

    #[test]
    fn what_is_given_does_not_change() {
        let (mesh, layout) = (Mesh::parse("data=2,model=2"), Layout::parse("a:data"));
        let fixed = Fixed { mesh: mesh.ok(), layout: layout.ok(), state_layout: None };
        let expected = [
            ("data=2,model=2", "a:data", "*:data", ""),
            ("data=2,model=2", "a:data", "*:model", ""),
            ("data=2,model=2", "a:data", "", "x=1"),
            ("data=2,model=2", "a:data", "", "x=2"),
        ];
        check(fixed, candidate("data=2,model=2", "a:data", ""), &expected);
    }

    #[test]
    fn a_search_without_rules_begins_with_one_and_what_is_given() {
        let texts = |fixed: Fixed| -> Vec<String> {
            let space = Space { devices: 4, ..space(fixed) };
            first(&space).iter().map(Candidate::options).collect()
        };
        let given = Fixed {
            mesh: Mesh::parse("x=2,y=2").ok(),
            state_layout: Layout::parse("a:x").ok(),
            ..Fixed::default()
        };
        assert_eq!(
            texts(given),
            [
                "--mesh x=2,y=2 --layout 'a:x+y' --state-layout 'a:x'",
                "--mesh x=2,y=2 --layout 'b:x+y' --state-layout 'a:x'",
            ]
        );
        assert_eq!(
            texts(Fixed::default())[..2],
            [
                "--mesh data=4 --layout 'a:data' --state-layout ''",
                "--mesh data=4 --layout 'a:data' --state-layout '*:data'",
            ]
        );
    }

    #[test]
    fn axes_lend_factors_and_change_places() {
        let texts = |mesh: &str| -> Vec<String> {
            resized(&Mesh::parse(mesh).expect("a mesh")).iter().map(Mesh::to_string).collect()
        };
        assert_eq!(texts("data=4,model=2"), ["data=2,model=4", "data=8", "model=2,data=4"]);
        assert_eq!(primes(360), [2, 3, 5]);
        assert_eq!(primes(1), [] as [usize; 0]);
    }

    #[test]
    fn placements_with_other_names_of_axes_have_one_form() {
        let one = canonical(&candidate("data=2,model=4", "a:data,b:model", "*:data"));
        assert_eq!(one, canonical(&candidate("x=2,data=4", "b:data,a:x", "*:x")));
        assert_ne!(one, canonical(&candidate("x=2,data=4", "b:x,a:data", "*:x")));
    }
}
