//! Optimizer slots of T5X's Adafactor as slots of ours.
//!
//! Both store the means of squared gradients over the columns and over the rows of each matrix, or all of
//! them for small matrices and vectors. T5X calls the two `v_row` and `v_col`: of a matrix without layers and
//! experts, `v_row` belongs to the shorter axis, else to `d_model`. The update is the same if the two are
//! exchanged, so only their axes matter.

use super::{
    array::Source,
    model::{Model, SLOTS},
};
use mesh::{DType, Site, ir::StateKind};
use models::t5x::Variable;
use std::collections::BTreeMap;

/// Names of our slots: means over columns, means over rows, all, first moments.
const ROWS: &str = "v_rows";
const COLUMNS: &str = "v_columns";
const WHOLE: &str = "v";
const FIRST: &str = "m";

/// Names and sizes of dims.
type Dims = Vec<(String, usize)>;

/// State of a program beside its parameters.
#[derive(Clone, PartialEq, Debug)]
pub struct State {
    /// Slots by name, with names and sizes of their dims.
    pub slots: BTreeMap<String, Dims>,
    /// Counters: name, element type, dims.
    pub counters: Vec<(String, DType, Dims)>,
}

impl State {
    /// Returns the state of the program that trains a model.
    ///
    /// # Errors
    /// The program is not legal.
    pub fn of(config: &models::Config) -> Result<Self, String> {
        let module = models::program::state(config, &Site::default())
            .finish()
            .map_err(|mistakes| mistakes.to_string())?;
        let (mut slots, mut counters) = (BTreeMap::new(), Vec::new());
        for (_, state) in module.env.states.iter() {
            let dims = state.ty.logical().map(|d| (d.name.to_string(), d.size)).collect();
            match state.kind {
                StateKind::Param => {}
                StateKind::Slot => drop(slots.insert(state.name.to_string(), dims)),
                StateKind::Counter => counters.push((state.name.to_string(), state.ty.dtype, dims)),
            }
        }
        Ok(Self { slots, counters })
    }
}

/// Returns the slots as variables with the paths of T5X, `VARIABLE/v_row` and so on, whose parameters are our
/// slots. The paths are those below `state/param_states`.
///
/// # Errors
/// A slot is missing, or has no counterpart; the error names it.
pub fn variables(source: &dyn Source, model: &Model, state: &State) -> Result<Vec<Variable>, String> {
    let mut all = Vec::new();
    for variable in &model.variables {
        all.extend(of(source, variable, state)?);
    }
    Ok(all)
}

fn of(source: &dyn Source, variable: &Variable, state: &State) -> Result<Vec<Variable>, String> {
    let path = |slot: &str| format!("{SLOTS}{}/{slot}", variable.name);
    let sizes = |slot: &str| source.arrays().get(&path(slot)).map(|array| &array.sizes);
    // T5X stores one element for a slot that is not used.
    let used = |slot: &str| sizes(slot).filter(|sizes| sizes[..] != [1]);
    let ours = |slot: &str| state.slots.contains_key(&format!("{}/{slot}", variable.param));
    let named = |slot: &str| source.own_name(&path(slot));
    let mut all = Vec::new();
    match (ours(WHOLE), used("v_row").zip(used("v_col"))) {
        (false, Some((rows, columns))) => {
            for (slot, removed) in factored(source, variable, rows, columns)? {
                all.push(without(variable, state, slot, removed)?);
            }
        }
        (true, None) => all.push(whole(variable, "v", WHOLE, sizes("v"))?),
        (true, Some(_)) => {
            return Err(format!("`{}` is factored, and `{}` is not here", named("v_row"), variable.param));
        }
        (false, None) => {
            return Err(format!(
                "there is no `{}`, and `{}` is factored here",
                named("v_row"),
                variable.param
            ));
        }
    }
    match (ours(FIRST), used("m")) {
        (false, None) => {}
        (true, _) => all.push(whole(variable, "m", FIRST, sizes("m"))?),
        (false, Some(_)) => {
            return Err(format!("`{}` is a first moment: --set beta1=0.9 takes it", named("m")));
        }
    }
    Ok(all)
}

/// Returns a slot with the sizes of its variable.
fn whole(
    variable: &Variable,
    theirs: &str,
    ours: &str,
    sizes: Option<&Vec<usize>>,
) -> Result<Variable, String> {
    let (name, param) = (format!("{}/{theirs}", variable.name), format!("{}/{ours}", variable.param));
    match sizes {
        Some(sizes) if *sizes == variable.sizes() => Ok(Variable { name, param, ..variable.clone() }),
        Some(sizes) => Err(format!("`{name}` has sizes {sizes:?} instead of {:?}", variable.sizes())),
        None => Err(format!("there is no `{name}`")),
    }
}

/// Returns the axes that are rows or columns of matrices.
fn matrix(variable: &Variable) -> Option<[usize; 2]> {
    let stacks = |axis: &[String]| matches!(axis, [dim] if dim == "layers" || dim == "experts");
    let axes: Vec<usize> = (0..variable.axes.len()).filter(|i| !stacks(&variable.axes[*i])).collect();
    axes.try_into().ok()
}

/// Returns the axis over which each of `v_row` and `v_col` is a mean.
fn factored(
    source: &dyn Source,
    variable: &Variable,
    rows: &[usize],
    columns: &[usize],
) -> Result<[(&'static str, usize); 2], String> {
    let sizes = variable.sizes();
    let left = |removed: usize| -> Vec<usize> {
        (0..sizes.len()).filter(|i| *i != removed).map(|i| sizes[i]).collect()
    };
    let fits = |rows_without: usize, columns_without: usize| {
        left(rows_without) == rows && left(columns_without) == columns
    };
    let [a, b] =
        matrix(variable).ok_or_else(|| format!("`{}` is no matrix, but is factored", variable.name))?;
    let experts = variable.axes.iter().position(|axis| axis[..] == ["experts"]);
    if !source.rows_are_first() && experts.is_some_and(|e| sizes[e] >= sizes[a].min(sizes[b])) {
        return Err(format!(
            "Mesh TensorFlow factors the two largest axes of `{}`, of which experts are one",
            variable.name
        ));
    }
    let first = match sizes[a] == sizes[b] {
        true => keeps_first(source, variable, a),
        false => fits(b, a),
    };
    let (rows_without, columns_without) = if first { (b, a) } else { (a, b) };
    if fits(rows_without, columns_without) {
        return Ok([("v_row", rows_without), ("v_col", columns_without)]);
    }
    let name = &variable.name;
    Err(format!("`{name}/v_row` and `{name}/v_col` have sizes {rows:?} and {columns:?} for {sizes:?}"))
}

/// True if `v_row` keeps the first axis of a matrix whose axes are equally large.
fn keeps_first(source: &dyn Source, variable: &Variable, first: usize) -> bool {
    // With layers or experts, T5X's rules by name apply.
    match variable.axes.len() > 2 && source.rows_are_first() {
        true => variable.axes[first] == ["d_model"],
        false => source.rows_are_first(),
    }
}

/// Returns the slot that is a mean over an axis.
fn without(variable: &Variable, state: &State, theirs: &str, removed: usize) -> Result<Variable, String> {
    let gone = &variable.axes[removed];
    let stays = |name: &String| !gone.contains(name);
    let kept: Vec<usize> = (0..variable.dims.len()).filter(|d| stays(&variable.dims[*d].0)).collect();
    let axes = variable.axes.iter().enumerate().filter(|(i, _)| *i != removed);
    let mut slot = Variable {
        name: format!("{}/{theirs}", variable.name),
        axes: axes.map(|(_, axis)| axis.clone()).collect(),
        param: String::new(),
        dims: kept.iter().map(|d| variable.dims[*d].clone()).collect(),
        start: kept.iter().map(|d| variable.start[*d]).collect(),
        part: kept.iter().map(|d| variable.part[*d]).collect(),
    };
    for ours in [ROWS, COLUMNS] {
        let name = format!("{}/{ours}", variable.param);
        if state.slots.get(&name).is_some_and(|dims| *dims == slot.dims) {
            slot.param = name;
            return Ok(slot);
        }
    }
    let dims: Vec<&str> = slot.dims.iter().map(|(name, _)| name.as_str()).collect();
    Err(format!("`{}` has {}, which no slot of `{}` has here", slot.name, dims.join(", "), variable.param))
}

/// Returns the slots of a checkpoint of ours as variables of T5X, and the paths of the slots that T5X stores
/// unused. `has` says which slots the checkpoint has.
///
/// # Errors
/// A slot has no counterpart in T5X.
pub fn exported(
    variables: &[Variable],
    state: &State,
    has: impl Fn(&str) -> bool,
) -> Result<(Vec<Variable>, Vec<String>), String> {
    let (mut all, mut unused) = (Vec::new(), Vec::new());
    for variable in variables {
        let ours = |slot: &str| has(&format!("{}/{slot}", variable.param));
        let sizes = variable.sizes();
        match (matrix(variable), ours(ROWS) && ours(COLUMNS), ours(WHOLE)) {
            (Some([a, b]), true, _) => {
                // The shorter axis, or with layers or experts d_model, is that of `v_row`.
                let first = match variable.axes.len() {
                    2 => sizes[a] <= sizes[b],
                    _ => variable.axes[a] == ["d_model"],
                };
                let (rows_without, columns_without) = if first { (b, a) } else { (a, b) };
                all.push(without(variable, state, "v_row", rows_without)?);
                all.push(without(variable, state, "v_col", columns_without)?);
                unused.push(format!("{}/v", variable.name));
            }
            (_, _, true) => {
                all.push(whole(variable, "v", WHOLE, Some(&sizes))?);
                unused.extend(["v_row", "v_col"].map(|slot| format!("{}/{slot}", variable.name)));
            }
            (_, _, false) => return Err(format!("`{}` has no slots of Adafactor", variable.param)),
        }
        match ours(FIRST) {
            true => all.push(whole(variable, "m", FIRST, Some(&sizes))?),
            false => unused.push(format!("{}/m", variable.name)),
        }
    }
    Ok((all, unused))
}
