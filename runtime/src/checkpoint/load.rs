//! Parameters taken from a checkpoint by name: the plan, its table, and the transfer.
//!
//! The plan covers every parameter of the program and every parameter of the checkpoint before anything is
//! transferred, so that all mistakes are reported at once.

use super::{
    manifest::{Entry, Kind},
    mapping::{Mapping, Pattern, Rule, Selection},
    padding::{UsedParts, common},
    reader::Checkpoint,
    snapshot::used_by,
};
use crate::{
    Error, HostTensor, Result, Session,
    session::Buffer,
    shard::{self, Region},
    tensor::element_type,
};
use pjrt::ElementType;
use proto::manifest::{StateEntry, StateKind, Tensor};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// The parameters that a checkpoint provides, and the tensors they are taken from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// By parameter.
    pieces: BTreeMap<String, Vec<Piece>>,
    /// The summary.
    pub table: Table,
}

/// A part of a parameter that is taken from a part of a tensor.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Piece {
    /// The tensor of the checkpoint.
    from: String,
    /// The dim along which both parts are selected, as an index into the dims, and the pairs of indices in
    /// the parameter and in the tensor. `None` means the whole of both.
    part: Option<(usize, Vec<(usize, usize)>)>,
    /// True if the tensor is `f32` and the parameter `bf16`.
    rounds: bool,
}

/// A summary of the parameters that were taken, the tensors that were left and the initial values that stay.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Table {
    /// The path or URL of the checkpoint.
    pub checkpoint: String,
    /// Its step.
    pub step: u64,
    /// The groups of tensors: parameters that were taken, then those with initial values, then tensors of the
    /// checkpoint that were left.
    pub rows: Vec<Row>,
}

/// A group of tensors with the same fate and pattern.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row {
    /// Their fate.
    pub fate: Fate,
    /// The rule of `--map`, the pattern of `--allow-missing` or the pattern of `--ignore`. `None` means
    /// parameters with the same name in program and checkpoint.
    pub pattern: Option<String>,
    /// Their number. A tensor of which a part is taken counts in several groups.
    pub tensors: usize,
    /// The number of their elements.
    pub elements: u64,
}

/// The fate of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// A parameter of the program is taken from the checkpoint.
    Taken,
    /// A parameter of the program keeps its initial value.
    Initialized,
    /// A tensor of the checkpoint is not used.
    Left,
}

impl fmt::Display for Table {
    /// Writes one line for the checkpoint and one for each group.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "parameters from {} (step {})", self.checkpoint, self.step)?;
        for Row { fate, pattern, tensors, elements } in &self.rows {
            let fate = match fate {
                Fate::Taken => "taken",
                Fate::Initialized => "initialized",
                Fate::Left => "left",
            };
            let pattern = pattern.as_deref().unwrap_or("(same name)");
            let tensors = if *tensors == 1 { "1 tensor".to_owned() } else { format!("{tensors} tensors") };
            write!(f, "\n  {fate:<12} {pattern:<40} {tensors}, {elements} elements")?;
        }
        Ok(())
    }
}

impl Plan {
    /// Plans the parameters of `session`'s program that `checkpoint` provides under `mapping`.
    ///
    /// # Errors
    /// All of these are listed: a parameter without a tensor, a tensor without a parameter, other shapes, a
    /// rule that applies to no parameter or to no tensor, a parameter to which two rules apply.
    pub fn new(session: &Session, checkpoint: &Checkpoint, mapping: &Mapping) -> Result<Self> {
        let manifest = &session.artefact().manifest;
        // Other state, such as that of a teacher, is taken only by a rule.
        let by_rule = |name: &str| mapping.rules.iter().any(|rule| rule.source(name).is_some());
        let is_wanted = |s: &&StateEntry| match s.kind() {
            StateKind::Param => true,
            StateKind::Counter => by_rule(&s.name),
            StateKind::Slot | StateKind::Unspecified => false,
        };
        let used = session.used_parts();
        let wanted = manifest.state.iter().filter(is_wanted).map(|entry| Param::of(entry, &used));
        let wanted = wanted.collect::<Vec<_>>();
        let has = checkpoint.tensors().iter().filter(|e| e.kind == Kind::Param).collect::<Vec<_>>();
        let mut plan = Planner::new(mapping, &has, used_by(checkpoint)).plan(&wanted).map_err(|wrong| {
            Error::input(
                format!(
                    "the checkpoint `{}` does not fit the program `{}`:\n    {}",
                    checkpoint.dir().display(),
                    manifest.program,
                    wrong.join("\n    ")
                ),
                "use the settings of the checkpoint's model, or say with --map, --allow-missing and --ignore \
                 what belongs together; `meshc checkpoint list` shows its tensors",
            )
        })?;
        plan.table.checkpoint = checkpoint.dir().display().to_string();
        plan.table.step = checkpoint.step();
        Ok(plan)
    }
}

/// A parameter of the program.
pub(super) struct Param {
    pub name: String,
    pub dtype: String,
    pub dims: Vec<(String, usize)>,
    /// The used parts of padded dims.
    pub used: UsedParts,
}

impl Param {
    fn of(entry: &StateEntry, used: &UsedParts) -> Self {
        let tensor = tensor_of(entry);
        let dims = tensor.dims.iter().map(|d| (d.name.clone(), d.size as usize)).collect();
        Self { name: entry.name.clone(), dtype: tensor.dtype.clone(), dims, used: used.clone() }
    }

    fn shape(&self) -> String {
        let dims: Vec<String> = self.dims.iter().map(|(name, size)| format!("{name}={size}")).collect();
        format!("{}[{}]", self.dtype, dims.join(", "))
    }

    fn elements(&self) -> u64 {
        self.dims.iter().map(|d| d.1 as u64).product()
    }

    /// Returns the number of elements without padding.
    fn used_elements(&self) -> u64 {
        self.dims.iter().map(|(name, size)| self.used.of(name, *size) as u64).product()
    }
}

/// Matches parameters with tensors.
pub(super) struct Planner<'a> {
    mapping: &'a Mapping,
    has: BTreeMap<&'a str, &'a Entry>,
    pieces: BTreeMap<String, Vec<Piece>>,
    /// Tensors and elements by fate and group: the number of a rule or pattern.
    groups: BTreeMap<(Fate, Option<usize>), (usize, u64)>,
    used: BTreeSet<String>,
    /// The used parts of the checkpoint's padded dims.
    their_used: UsedParts,
    /// True for the rules that apply to a parameter, and for those that found a tensor.
    applied: Vec<(bool, bool)>,
    wrong: Vec<String>,
}

impl<'a> Planner<'a> {
    pub fn new(mapping: &'a Mapping, has: &[&'a Entry], their_used: UsedParts) -> Self {
        let mut planner = Self {
            mapping,
            has: BTreeMap::new(),
            pieces: BTreeMap::new(),
            groups: BTreeMap::new(),
            used: BTreeSet::new(),
            their_used,
            applied: vec![(false, false); mapping.rules.len()],
            wrong: Vec::new(),
        };
        for entry in has {
            match matching(&mapping.ignore, &entry.name) {
                Some(number) => planner.count(Fate::Left, Some(number), elements(entry)),
                None => {
                    planner.has.insert(&entry.name, entry);
                }
            }
        }
        planner
    }

    /// Plans all parameters. The error lists all mistakes.
    pub fn plan(mut self, wanted: &[Param]) -> std::result::Result<Plan, Vec<String>> {
        wanted.iter().for_each(|param| self.param(param));
        for (rule, (applied, found)) in self.mapping.rules.iter().zip(&self.applied) {
            if !applied {
                self.wrong.push(format!("`--map {rule}` applies to no parameter of the program"));
            } else if !found {
                self.wrong.push(format!("`--map {rule}` finds no tensor of the checkpoint"));
            }
        }
        for (name, entry) in &self.has {
            if !self.used.contains(*name) {
                self.wrong.push(format!("left over: `{name}`, {}", entry.shape()));
            }
        }
        if !self.wrong.is_empty() {
            return Err(self.wrong);
        }
        let text = |fate, number: usize| match fate {
            Fate::Taken => self.mapping.rules[number].to_string(),
            Fate::Initialized => self.initialized().nth(number).map_or_else(String::new, Pattern::to_string),
            Fate::Left => self.mapping.ignore[number].to_string(),
        };
        let rows = self.groups.iter().map(|((fate, number), (tensors, elements))| Row {
            fate: *fate,
            pattern: number.map(|number| text(*fate, number)),
            tensors: *tensors,
            elements: *elements,
        });
        let table = Table { rows: rows.collect(), ..Table::default() };
        Ok(Plan { pieces: self.pieces, table })
    }

    fn param(&mut self, param: &Param) {
        let rules: Vec<(usize, &Rule, String)> = (0..)
            .zip(&self.mapping.rules)
            .filter_map(|(number, rule)| Some((number, rule, rule.source(&param.name)?)))
            .collect();
        let missing = self.initialized().position(|pattern| pattern.matches(&param.name));
        let by_name = matching(&self.mapping.initial, &param.name).is_none();
        let mut taken: Vec<(Option<usize>, Piece)> = Vec::new();
        let mut absent = Vec::new();
        for (number, rule, source) in &rules {
            self.applied[*number].0 = true;
            let Some(entry) = self.has.get(source.as_str()) else {
                absent.push(format!("missing: `{source}`, for `{}` by `--map {rule}`", param.name));
                continue;
            };
            self.applied[*number].1 = true;
            self.used.insert(source.clone());
            match piece(param, (*entry, &self.their_used), Some(rule)) {
                Ok(piece) => taken.push((Some(*number), piece)),
                Err(why) => self.wrong.push(why),
            }
        }
        if rules.is_empty() && by_name {
            match self.has.get(param.name.as_str()) {
                None => absent.push(format!("missing: `{}`, {}", param.name, param.shape())),
                Some(entry) => {
                    self.used.insert(param.name.clone());
                    match piece(param, (*entry, &self.their_used), None) {
                        Ok(piece) => taken.push((None, piece)),
                        Err(why) => self.wrong.push(why),
                    }
                }
            }
        }
        if missing.is_none() {
            self.wrong.append(&mut absent);
        }
        self.take(param, taken, missing, absent.is_empty());
    }

    /// Returns the patterns of parameters that may have initial values.
    fn initialized(&self) -> impl Iterator<Item = &'a Pattern> {
        self.mapping.allow_missing.iter().chain(&self.mapping.initial)
    }

    /// Records the parts of a parameter that are taken. `missing` is the pattern that allows the rest to have
    /// initial values; `found` is true if no tensor is missing.
    fn take(
        &mut self,
        param: &Param,
        taken: Vec<(Option<usize>, Piece)>,
        missing: Option<usize>,
        found: bool,
    ) {
        let mut covered = 0;
        for (i, (group, piece)) in taken.iter().enumerate() {
            let elements = piece.elements(param);
            covered += elements;
            self.count(Fate::Taken, *group, elements);
            if let Some((other, _)) = taken[..i].iter().find(|(_, other)| other.overlaps(piece)) {
                let text =
                    |n: &Option<usize>| n.map_or_else(String::new, |n| self.mapping.rules[n].to_string());
                self.wrong.push(format!(
                    "`{}` is taken twice, by `--map {}` and `--map {}`",
                    param.name,
                    text(other),
                    text(group)
                ));
            }
        }
        let rest = param.used_elements().saturating_sub(covered);
        if rest > 0 {
            match missing {
                Some(number) => self.count(Fate::Initialized, Some(number), rest),
                None if found && !taken.is_empty() => self.wrong.push(format!(
                    "`{}`, {}: the rules take only {covered} of its {} elements",
                    param.name,
                    param.shape(),
                    param.elements()
                )),
                None => {}
            }
        }
        if !taken.is_empty() {
            self.pieces.insert(param.name.clone(), taken.into_iter().map(|(_, piece)| piece).collect());
        }
    }

    fn count(&mut self, fate: Fate, group: Option<usize>, elements: u64) {
        let (tensors, sum) = self.groups.entry((fate, group)).or_default();
        *tensors += 1;
        *sum += elements;
    }
}

impl Piece {
    fn elements(&self, param: &Param) -> u64 {
        let whole = param.elements();
        self.part
            .as_ref()
            .map_or(whole, |(dim, pairs)| whole / (param.dims[*dim].1 as u64).max(1) * pairs.len() as u64)
    }

    /// Reads a region of the tensor in the element type of the parameter.
    fn read(&self, checkpoint: &Checkpoint, region: &Region) -> Result<HostTensor> {
        let value = checkpoint.read_box(&self.from, &region.start, &region.sizes)?;
        if !self.rounds {
            return Ok(value);
        }
        let bytes =
            value.bytes.as_chunks().0.iter().flat_map(|b| rounded(f32::from_le_bytes(*b)).to_le_bytes());
        Ok(HostTensor { dtype: ElementType::Bf16, bytes: bytes.collect(), dims: value.dims })
    }

    /// True if both cover a common part of their parameter.
    fn overlaps(&self, other: &Self) -> bool {
        let (Some((a, ours)), Some((b, theirs))) = (&self.part, &other.part) else { return true };
        a != b || ours.iter().any(|(to, _)| theirs.iter().any(|(other, _)| other == to))
    }
}

/// Returns the bits of the nearest `bf16`, of two equally near ones the even one.
pub(super) fn rounded(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((u64::from(bits) + 0x7fff + u64::from(bits >> 16 & 1)) >> 16) as u16
}

/// Returns the number of the first pattern that matches.
fn matching(patterns: &[Pattern], name: &str) -> Option<usize> {
    patterns.iter().position(|pattern| pattern.matches(name))
}

fn elements(entry: &Entry) -> u64 {
    entry.dims.iter().map(|d| d.1 as u64).product()
}

/// Returns the part of a parameter that `entry` provides: without selections all of it but padding. The error
/// names both shapes.
fn piece(
    param: &Param,
    (entry, their_used): (&Entry, &UsedParts),
    rule: Option<&Rule>,
) -> std::result::Result<Piece, String> {
    let by = rule.map_or_else(String::new, |rule| format!(" by `--map {rule}`"));
    let differs = |why: &str| {
        let from = if entry.name == param.name { String::new() } else { format!(" from `{}`", entry.name) };
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        format!("`{}`{from} is {}, the program expects {}{by}{why}", param.name, entry.shape(), param.shape())
    };
    let rounds = (entry.dtype.as_str(), param.dtype.as_str()) == ("f32", "bf16");
    let fits = rounds || entry.dtype == param.dtype;
    let parts = rule.map(|rule| (rule.to.part.as_ref(), rule.from.part.as_ref()));
    let (to, from) = parts.unwrap_or_default();
    let Some(dim) = to.or(from).map(|part| &part.dim) else {
        let common = common((&param.dims, &param.used), (&entry.dims, their_used));
        let common = common.filter(|_| fits).ok_or_else(|| differs(""))?;
        let sizes = param.dims.iter().zip(&entry.dims);
        let mut padded = (0..).zip(sizes).filter(|(_, (ours, theirs))| ours.1 != theirs.1).map(|(i, _)| i);
        let part = padded.next().map(|dim| (dim, (0..common[dim]).map(|i| (i, i)).collect()));
        if padded.next().is_some() {
            return Err(differs("more than one dim has another padding"));
        }
        return Ok(Piece { from: entry.name.clone(), part, rounds });
    };
    let place = param.dims.iter().position(|d| d.0 == *dim);
    let place = place.ok_or_else(|| differs(&format!("there is no dim `{dim}`")))?;
    let others = |dims: &[(String, usize)]| {
        let sizes = dims.iter().enumerate().map(|(i, d)| (d.0.clone(), if i == place { 0 } else { d.1 }));
        sizes.collect::<Vec<_>>()
    };
    if !fits || others(&entry.dims) != others(&param.dims) {
        return Err(differs(""));
    }
    let indices = |part: Option<&Selection>, size: usize| match part {
        None => Ok((0..size).collect()),
        Some(part) if part.dim != *dim => Err(differs("both sides must select along the same dim")),
        Some(part) => part.indices(size).map_err(|why| differs(&why)),
    };
    let to: Vec<usize> = indices(to, param.dims[place].1)?;
    let from: Vec<usize> = indices(from, entry.dims[place].1)?;
    if to.len() != from.len() {
        return Err(differs(&format!("{} indices of `{dim}` from {}", to.len(), from.len())));
    }
    let part = Some((place, to.into_iter().zip(from).collect()));
    Ok(Piece { from: entry.name.clone(), part, rounds })
}

impl Session {
    /// Reads all that `plan` takes from `checkpoint` and drops it, so that damage is found before anything is
    /// compiled.
    ///
    /// # Errors
    /// A tensor is damaged or cannot be read.
    pub fn check_load(&self, checkpoint: &Checkpoint, plan: &Plan) -> Result<()> {
        plan.pieces.iter().try_for_each(|(name, pieces)| {
            let entry = self.entry(name);
            self.assignment().regions(tensor_of(entry)).into_iter().try_for_each(|(region, _)| {
                let mut part = empty(entry, &region)?;
                fill(checkpoint, pieces, &region, &mut part)
            })
        })
    }

    /// Replaces the parameters that `plan` takes from `checkpoint`. Parts that it does not take, and other
    /// state, keep their values. Each device receives its shard of each tensor; the host holds one region of
    /// one tensor at a time.
    ///
    /// # Errors
    /// A tensor is damaged or cannot be read, or a parameter of which a part is taken has no value yet. The
    /// session's state is then unchanged.
    pub fn load(&mut self, checkpoint: &Checkpoint, plan: &Plan) -> Result<()> {
        let mut loaded = BTreeMap::new();
        for (name, pieces) in &plan.pieces {
            loaded.insert(name.clone(), self.load_one(self.entry(name), checkpoint, pieces)?);
        }
        self.put_state(loaded);
        Ok(())
    }

    fn load_one(&self, entry: &StateEntry, checkpoint: &Checkpoint, pieces: &[Piece]) -> Result<Vec<Buffer>> {
        let mut buffers: Vec<Option<Buffer>> = (0..self.assignment().shards()).map(|_| None).collect();
        let whole = pieces.iter().any(|piece| piece.part.is_none());
        for (region, holders) in self.assignment().regions(tensor_of(entry)) {
            let mut part = empty(entry, &region)?;
            if !whole {
                part.bytes = self.shards(&entry.name)?[holders[0]].read(&entry.name)?;
            }
            fill(checkpoint, pieces, &region, &mut part)?;
            for local in holders {
                buffers[local] = Some(self.send(&part, local)?);
            }
        }
        Ok(buffers.into_iter().map(|b| b.expect("every device holds some region")).collect())
    }

    fn entry(&self, name: &str) -> &StateEntry {
        let mut all = self.artefact().manifest.state.iter();
        all.find(|s| s.name == name).expect("a plan is of the session's parameters")
    }
}

/// Returns zeros of the type and the sizes of a region.
fn empty(entry: &StateEntry, region: &Region) -> Result<HostTensor> {
    let dtype = element_type(&tensor_of(entry).dtype)?;
    let element = dtype.byte_size().expect("element types of manifests have a size");
    let bytes = vec![0; region.sizes.iter().product::<usize>() * element];
    Ok(HostTensor { dtype, dims: region.sizes.clone(), bytes })
}

/// Copies what `pieces` take of a region of their parameter.
fn fill(checkpoint: &Checkpoint, pieces: &[Piece], region: &Region, part: &mut HostTensor) -> Result<()> {
    let element = part.dtype.byte_size().expect("element types of manifests have a size");
    for piece in pieces {
        let Some((dim, pairs)) = &piece.part else {
            *part = piece.read(checkpoint, region)?;
            continue;
        };
        let inside = region.start[*dim]..region.start[*dim] + region.sizes[*dim];
        for (to, from) in pairs.iter().filter(|(to, _)| inside.contains(to)) {
            let mut source = region.clone();
            (source.start[*dim], source.sizes[*dim]) = (*from, 1);
            let value = piece.read(checkpoint, &source)?;
            let mut target = Region { start: vec![0; region.start.len()], sizes: source.sizes };
            target.start[*dim] = to - inside.start;
            shard::paste(&mut part.bytes, &region.sizes, element, &target, &value.bytes);
        }
    }
    Ok(())
}

fn tensor_of(entry: &StateEntry) -> &Tensor {
    entry.tensor.as_ref().expect("artefacts are checked when they are read")
}
