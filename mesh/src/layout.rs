//! Layouts: rules that split dims over mesh axes.
//!
//! A *layout* has rules `dim:axis` or `dim:axis+axis` (major axis first) that hold for every value of a
//! program. A *state layout* adds rules for stored parameters and optimizer slots only (ZeRO, FSDP). Its rule
//! for a dim replaces the layout's. The rule `*:axis+axis` further splits every stored tensor over these
//! axes, along its largest dim that still divides.

use crate::{AxisId, Mesh, Name, Type, axis::AxisSet};
use std::{collections::BTreeMap, fmt};

/// Rules in the order given, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// `(dim, axes)`. The dim `*` stands for the largest dim of every stored tensor.
    pub rules: Vec<(Name, Vec<Name>)>,
}

impl Layout {
    /// Parses `batch:data+expert,experts:expert`. The empty text is the layout without rules.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rules: Vec<(Name, Vec<Name>)> = Vec::new();
        for rule in text.split(',').map(str::trim).filter(|r| !r.is_empty()) {
            let (dim, axes) = rule.split_once(':').ok_or_else(|| {
                let right = match rule.contains('=') {
                    true => rule.replacen('=', ":", 1),
                    false => format!("{rule}:data"),
                };
                format!("layout rule `{rule}` has no axis: write it as `{right}`")
            })?;
            let dim = dim.trim();
            if dim != "*" && !Name::is_word(dim) {
                return Err(format!("`{dim}` in layout rule `{rule}` is not the name of a dim"));
            }
            if rules.iter().any(|(d, _)| *d == dim) {
                return Err(format!(
                    "the layout splits dim `{dim}` twice: give one rule with all its axes, `{dim}:axis+axis`"
                ));
            }
            let axes: Vec<Name> = axes.split('+').map(|a| a.trim().into()).collect();
            for (i, axis) in axes.iter().enumerate() {
                if !Name::is_word(axis) {
                    return Err(format!("`{axis}` in layout rule `{rule}` is not the name of a mesh axis"));
                }
                if axes[..i].contains(axis) {
                    return Err(format!("layout rule `{rule}` names axis `{axis}` twice"));
                }
            }
            rules.push((dim.into(), axes));
        }
        Ok(Self { rules })
    }

    /// Returns the rules without the axes that `mesh` lacks. A model's default layout is restricted this way.
    pub fn restricted_to(&self, mesh: &Mesh) -> Self {
        let keep =
            |axes: &[Name]| axes.iter().filter(|a| mesh.find(a).is_some()).cloned().collect::<Vec<_>>();
        let rules = self.rules.iter().map(|(d, axes)| (d.clone(), keep(axes))).filter(|(_, a)| !a.is_empty());
        Self { rules: rules.collect() }
    }

    /// Looks the axes up in `mesh`. The error names the first axis that the mesh lacks.
    pub fn resolve(&self, mesh: &Mesh) -> Result<AxisMap, String> {
        let mut map = AxisMap::default();
        for (dim, axes) in &self.rules {
            let mut ids = Vec::new();
            for axis in axes {
                ids.push(mesh.find(axis).ok_or_else(|| {
                    let known: Vec<_> = mesh.axes().iter().map(|a| a.name.to_string()).collect();
                    let known = if known.is_empty() {
                        "no axes".into()
                    } else {
                        format!("axes {}", known.join(", "))
                    };
                    let near = suggest(axis, mesh.axes().iter().map(|a| a.name.as_str()));
                    let near = near.map(|near| format!(": did you mean `{dim}:{near}`?")).unwrap_or_default();
                    format!(
                        "the layout splits dim `{dim}` over axis `{axis}`, but the mesh has {known}{near}"
                    )
                })?);
            }
            if *dim == "*" {
                map.rest = ids;
            } else {
                map.dims.insert(dim.clone(), ids);
            }
        }
        Ok(map)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (dim, axes)) in self.rules.iter().enumerate() {
            let axes: Vec<&str> = axes.iter().map(|a| a.as_str()).collect();
            write!(f, "{}{dim}:{}", if i == 0 { "" } else { "," }, axes.join("+"))?;
        }
        Ok(())
    }
}

/// A layout with its axes looked up in one mesh.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AxisMap {
    dims: BTreeMap<Name, Vec<AxisId>>,
    rest: Vec<AxisId>,
}

impl AxisMap {
    /// The axes of `dim`, major first; empty if it is not split.
    pub fn axes(&self, dim: &str) -> &[AxisId] {
        self.dims.get(dim).map_or(&[], |axes| axes)
    }

    /// Names of all dims with a rule.
    pub fn dims(&self) -> impl Iterator<Item = &Name> {
        self.dims.keys()
    }

    /// Returns the rules with only the axes for which `keep` is true.
    pub fn filtered(&self, keep: impl Fn(AxisId) -> bool) -> Self {
        let kept = |axes: &Vec<AxisId>| axes.iter().copied().filter(|a| keep(*a)).collect();
        Self {
            dims: self.dims.iter().map(|(d, axes)| (d.clone(), kept(axes))).collect(),
            rest: kept(&self.rest),
        }
    }

    /// Returns `ty` with every dim split as the rules say; pending sums stay. The caller must check that
    /// the result is legal: one axis may now split two dims, or a size may not divide.
    pub fn apply(&self, ty: &Type) -> Type {
        let mut ty = ty.clone();
        for d in &mut ty.dims {
            d.axes = self.axes(&d.dim.name).to_vec();
        }
        ty
    }

    /// Returns the type of a stored tensor. `self` is the layout, `state` the state layout. A state rule
    /// that would use an axis twice in this tensor, or that does not divide its size, does not apply to it.
    pub fn apply_to_state(&self, state: &AxisMap, ty: &Type, mesh: &Mesh) -> Type {
        let mut ty = self.apply(ty);
        for i in 0..ty.dims.len() {
            let Some(axes) = state.dims.get(&ty.dims[i].dim.name) else { continue };
            let others: AxisSet = ty
                .dims
                .iter()
                .enumerate()
                .filter(|(j, _)| *j != i)
                .flat_map(|(_, d)| d.axes.clone())
                .collect();
            let free = axes.iter().all(|a| !others.contains(*a));
            if free && ty.dims[i].dim.size.is_multiple_of(mesh.product(axes)) {
                ty.dims[i].axes = axes.clone();
            }
        }
        for axis in &state.rest {
            if ty.split().contains(*axis) {
                continue;
            }
            let local = |d: &crate::TensorDim| d.dim.size / mesh.product(&d.axes);
            let fits = |d: &crate::TensorDim| local(d).is_multiple_of(mesh.size(*axis));
            // The first of the largest: `max_by_key` would take the last.
            let best =
                (0..ty.dims.len()).rev().filter(|i| fits(&ty.dims[*i])).max_by_key(|i| local(&ty.dims[*i]));
            if let Some(i) = best {
                ty.dims[i].axes.push(*axis);
            }
        }
        ty
    }
}

/// Returns the candidate with the smallest edit distance to `word`, if it is near enough to be a typo.
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |c: &&str| distance(word, c) <= 1 + word.len().max(c.len()) / 4;
    candidates.into_iter().filter(near).min_by_key(|c| distance(word, c))
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 0..b.len() {
            let substitute = diagonal + usize::from(ca != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Dim};

    #[test]
    fn layouts_round_trip_and_mistakes_are_named() {
        let text = "batch:data+expert,experts:expert";
        assert_eq!(Layout::parse(text).unwrap().to_string(), text);
        assert!(Layout::parse("batch").unwrap_err().ends_with("has no axis: write it as `batch:data`"));
        assert!(
            Layout::parse("batch=model").unwrap_err().ends_with("has no axis: write it as `batch:model`")
        );
        assert!(Layout::parse("batch:data,batch:model").unwrap_err().contains("twice"));
        let mesh = Mesh::parse("data=2").unwrap();
        assert!(Layout::parse("batch:modle").unwrap().resolve(&mesh).unwrap_err().contains("axes data"));
        let error = Layout::parse("batch:dota").unwrap().resolve(&mesh).unwrap_err();
        assert!(error.ends_with("the mesh has axes data: did you mean `batch:data`?"), "{error}");
        assert_eq!(Layout::parse(text).unwrap().restricted_to(&mesh).to_string(), "batch:data");
    }

    #[test]
    fn a_star_rule_splits_the_largest_dim_that_divides() {
        let mesh = Mesh::parse("data=2,model=2").unwrap();
        let compute = Layout::parse("d_ff:model").unwrap().resolve(&mesh).unwrap();
        let state = Layout::parse("*:data").unwrap().resolve(&mesh).unwrap();
        let ty = Type::new(DType::F32, [Dim::new("d_model", 8), Dim::new("d_ff", 32)]);
        let text = compute.apply_to_state(&state, &ty, &mesh).display(&mesh).to_string();
        assert_eq!(text, "f32[d_model=8, d_ff=32@model+data]");
        let odd = Type::new(DType::F32, [Dim::new("d_model", 7)]);
        assert_eq!(compute.apply_to_state(&state, &odd, &mesh), odd);
    }

    #[test]
    fn suggestions_are_near() {
        assert_eq!(suggest("expertz", ["batch", "experts"]), Some("experts"));
        assert_eq!(suggest("xyz", ["batch", "experts"]), None);
    }
}
