//! A checkpoint of the same model with another number of experts, with experts where it had none, or without them.
//!
//! The tensors that the wanted program keeps are the task list: each is made from the checkpoint's tensor of the same
//! place, layer by layer, since models with experts in some layers only stack their layers differently. First all of it
//! is planned, so that everything that does not fit is said at once; then it is read and written, one layer of one
//! tensor at a time. docs/checkpoints.md says what holds of the result.
//!
//! Reading order: [`convert`], [`Conversion`] (what is wanted), the plan, [`Way`] (how a tensor is made), `pieces`.

mod pieces;
mod random;

use crate::{Origin, Overrides, facts, failure};
use anyhow::{Context, Result, anyhow};
use mesh::{Diagnostics, Site, StateKind, dsl::Args};
use models::{Config, Switch, stack::Stack, switch::options::RoutingMethod};
use runtime::{
    ElementType, HostTensor,
    checkpoint::{Checkpoint, Entry, Kind, Writer},
};
use std::path::{Path, PathBuf};

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// How many experts; nothing: a dense model.
    pub experts: Option<usize>,
    /// Which experts stay when there are to be fewer.
    pub keep: Option<Keep>,
    /// What a dense layer begins with where there were experts.
    pub ffn: Ffn,
    /// What the last matrix of every expert is multiplied by; nothing: what keeps the layer's result.
    pub scale: Option<f64>,
    /// Noise on the router's columns for copies of experts, by the root mean square of the router.
    pub noise: f64,
    /// Of the noise, and of values that are made anew.
    pub seed: u64,
    /// More settings of the model that is wanted.
    pub settings: Vec<String>,
}

/// Which experts stay.
#[derive(Clone, Debug)]
pub enum Keep {
    /// These, in every layer.
    These(Vec<usize>),
    /// In each layer those with the most tokens, by the metrics of training.
    ByLoad(PathBuf),
}

/// What a dense layer begins with where there were experts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ffn {
    /// Initial values, as the paper's distillation does (section 4.2).
    Fresh,
    /// The mean of all experts.
    Mean,
    /// One of them.
    Expert(usize),
}

/// What was done, for people.
#[derive(Debug)]
pub struct Converted {
    /// Tensors that were taken as they are.
    pub same: usize,
    /// Tensors that were made of others.
    pub made: usize,
    /// Parameters with initial values.
    pub fresh: Vec<String>,
    /// Slots that are zero.
    pub zeroed: usize,
}

/// Writes the checkpoint `out`.
pub fn convert(from: &Checkpoint, out: &Path, wanted: &Conversion) -> Result<Converted> {
    let source = Origin::of(from, None, &Overrides::default())?.config()?;
    let target = wanted.config(&source)?;
    let program = models::program(&target, &Site::default());
    let module = program.finish().map_err(|d| anyhow!("the wanted model: {d}"))?;
    let planner = Planner::new(from, wanted, &source, &target)?;
    let (mut plan, mut wrong) = (Vec::new(), Vec::new());
    for (_, state) in module.env.states.iter() {
        let dims: Vec<(String, usize)> = state.ty.logical().map(|d| (d.name.to_string(), d.size)).collect();
        let kind = match state.kind {
            StateKind::Param => Kind::Param,
            StateKind::Slot => Kind::Slot,
            StateKind::Counter => Kind::Counter,
        };
        let wanted = Wanted { name: state.name.to_string(), kind, dtype: state.ty.dtype.to_string(), dims };
        match planner.plan(&wanted) {
            Ok(parts) => plan.push((wanted, parts)),
            Err(why) => wrong.push(format!("`{}`: {why}", wanted.name)),
        }
    }
    if !wrong.is_empty() {
        return Err(failure(
            format!("`{}` cannot become what is wanted:\n    {}", from.dir().display(), wrong.join("\n    ")),
            "settings other than those of experts must stay as they are; `meshc checkpoint list` shows both",
        ));
    }
    let mut writer = Writer::create(out)?;
    let mut done = Converted { same: 0, made: 0, fresh: Vec::new(), zeroed: 0 };
    for (wanted, parts) in &plan {
        done.count(wanted, parts);
        for part in parts {
            let value = planner.make(wanted, part)?;
            let start = part.start(wanted.dims.len());
            writer.part(&wanted.name, wanted.kind, &wanted.dims, &start, value)?;
        }
    }
    let mut described = from.facts().clone();
    // What was imported from elsewhere is no longer what it was there.
    described.retain(|name, _| !name.starts_with("hf."));
    let (model, settings) = target.described();
    described.insert(facts::MODEL.into(), model.into());
    described.insert(facts::SETTINGS.into(), settings);
    described.insert("converted_from".into(), wanted.said(&source, from));
    writer.finish(described, from.step())?;
    Ok(done)
}

impl Conversion {
    /// The configuration of the model that is wanted.
    fn config(&self, source: &Config) -> Result<Config> {
        let mut config = source.clone();
        config.switch = self.experts.map(|experts| Switch {
            experts,
            expert_dropout: None,
            ..source.switch.clone().unwrap_or_default()
        });
        let words = self.settings.iter().flat_map(|s| ["--set".to_owned(), s.clone()]);
        let dtype = ["--dtype".to_owned(), source.precision.name().to_owned()];
        let args = Args::parse(dtype.into_iter().chain(words)).map_err(|d| anyhow!("{d}"))?;
        let config = config.with(&args);
        let mut mistakes = args.mistakes();
        mistakes.extend(config.mistakes());
        if mistakes.is_empty() {
            return Ok(config);
        }
        Err(failure(
            format!("these settings make no model:\n{}", Diagnostics(mistakes)),
            "correct --experts, or --set KEY=VALUE",
        ))
    }

    fn said(&self, source: &Config, from: &Checkpoint) -> String {
        let was = source.switch.as_ref().map_or("a dense model".into(), |s| format!("{} experts", s.experts));
        format!("{was}, step {}, {}", from.step(), from.dir().display())
    }
}

/// A tensor of the program that is wanted.
#[derive(Debug)]
struct Wanted {
    name: String,
    kind: Kind,
    dtype: String,
    dims: Vec<(String, usize)>,
}

/// A layer of a tensor, or all of it.
#[derive(Debug)]
struct Part {
    /// The index along `layers`, if layers are made one by one.
    layer: Option<usize>,
    /// Its dims, without `layers`.
    dims: Vec<(String, usize)>,
    way: Way,
    /// What it is made of: the name, and the index along `layers`.
    from: Option<(String, Option<usize>)>,
}

/// How a part is made.
#[derive(Clone, PartialEq, Debug)]
enum Way {
    /// It is what it was.
    Same,
    /// These of what lies along dim number `dim`, times a factor; copies of router columns get noise.
    Pick { dim: usize, list: Vec<usize>, factor: f64, noise: bool },
    /// The same again and again along a new dim, times a factor.
    Repeat { dim: usize, count: usize, factor: f64 },
    /// The mean over dim number `dim`.
    Mean { dim: usize, factor: f64 },
    /// Zeros, as slots are at first.
    Zeros,
    /// Truncated normal values of this deviation.
    Random(f64),
}

impl Part {
    fn start(&self, dims: usize) -> Vec<usize> {
        let mut start = vec![0; dims];
        if let Some(layer) = self.layer {
            start[0] = layer;
        }
        start
    }
}

impl Converted {
    fn count(&mut self, wanted: &Wanted, parts: &[Part]) {
        let is = |way: fn(&Way) -> bool| parts.iter().any(|p| way(&p.way));
        if is(|w| matches!(w, Way::Random(_))) {
            self.fresh.push(wanted.name.clone());
        } else if is(|w| *w == Way::Zeros) {
            match wanted.kind {
                Kind::Slot | Kind::Counter => self.zeroed += 1,
                Kind::Param => self.fresh.push(wanted.name.clone()),
            }
        } else if is(|w| *w != Way::Same) {
            self.made += 1;
        } else {
            self.same += 1;
        }
    }
}

const EXPERTS: [&str; 2] = ["experts", "experts_all"];

fn is_experts(name: &str) -> bool {
    EXPERTS.contains(&name)
}

/// Says of every tensor how it is made.
struct Planner<'a> {
    from: &'a Checkpoint,
    wanted: &'a Conversion,
    source: &'a Config,
    target: &'a Config,
    /// Old experts by new ones: for each stack, for each of its layers with experts.
    lists: [Vec<Vec<usize>>; 2],
    /// What keeps a layer's result where its gates change.
    factor: f64,
}

impl<'a> Planner<'a> {
    fn new(
        from: &'a Checkpoint,
        wanted: &'a Conversion,
        source: &'a Config,
        target: &'a Config,
    ) -> Result<Self> {
        let count = |config: &Config| config.switch.as_ref().map_or(0, |s| s.experts);
        let (old, new) = (count(source), count(target));
        let lists = match (old, new, &wanted.keep) {
            (0, _, None) | (_, 0, None) => Default::default(),
            (_, _, None) if new.is_multiple_of(old) => {
                let copies = new / old;
                same_in_all(source, &(0..new).map(|e| e / copies).collect::<Vec<_>>())
            }
            (_, _, None) if new > old => {
                return Err(failure(
                    format!("{new} experts cannot be copies of {old}"),
                    "ask for a multiple of what there is: every expert gets as many copies",
                ));
            }
            (_, _, None) => {
                return Err(failure(
                    format!("which {new} of the {old} experts stay?"),
                    "list them with --keep-experts, or let --keep-by-load METRICS.jsonl find those with the most tokens",
                ));
            }
            (_, _, Some(_)) if new == 0 || new > old => {
                return Err(failure(
                    format!("experts to keep were named, but there are {old} and {new} are wanted"),
                    "name some when there are to be fewer",
                ));
            }
            (_, _, Some(Keep::These(list))) => {
                let good = list.len() == new && list.iter().all(|e| *e < old);
                if !good || list.iter().enumerate().any(|(i, e)| list[..i].contains(e)) {
                    return Err(failure(
                        format!(
                            "--keep-experts names {list:?}: not {new} different ones of 0 to {}",
                            old - 1
                        ),
                        "name as many as --experts says, each once",
                    ));
                }
                same_in_all(source, list)
            }
            (_, _, Some(Keep::ByLoad(metrics))) => by_load(metrics, source, old, new)?,
        };
        if let (Ffn::Expert(e), true) = (wanted.ffn, new == 0)
            && e >= old
        {
            return Err(failure(
                format!("there is no expert {e} among {old}"),
                "--ffn takes fresh, mean, or the number of an expert, from 0",
            ));
        }
        let factor = match (&target.switch, old) {
            (Some(switch), 0) => gates_shrink(switch, new),
            (Some(switch), _) if new > old => gates_shrink(switch, new / old),
            (Some(_) | None, _) => 1.0,
        };
        Ok(Self { from, wanted, source, target, lists, factor: wanted.scale.unwrap_or(factor) })
    }

    /// The parts of a tensor, or why there are none.
    fn plan(&self, wanted: &Wanted) -> Result<Vec<Part>, String> {
        let stacked = wanted.dims.first().is_some_and(|d| d.0 == "layers");
        let places = if stacked { self.places(&wanted.name) } else { Vec::new() };
        if places.is_empty() {
            return Ok(vec![self.part(wanted, &wanted.dims, None, &wanted.name, None, None)?]);
        }
        let parts = places.into_iter().map(|p| {
            let name = format!("{}{}", p.scope, p.rest);
            self.part(wanted, &wanted.dims[1..], Some(p.layer), &name, Some(p.index), p.list)
        });
        parts.collect()
    }

    /// For every layer in the tensor `name` of the wanted program, where the checkpoint has it.
    fn places<'n>(&'n self, name: &'n str) -> Vec<Found<'n>> {
        let mut found = Vec::new();
        for (decoder, layers) in [(false, self.target.encoder_layers), (true, self.target.decoder_layers)] {
            let mut sparse = 0;
            for i in 0..layers {
                let place = Stack::location(self.target, decoder, i);
                let there = Stack::location(self.source, decoder, i);
                let number = sparse;
                sparse += usize::from(self.source.is_sparse(decoder, i));
                // A scope that another one begins with goes on with a slash.
                if let Some(rest) = name.strip_prefix(&place.scope).filter(|r| r.starts_with('/')) {
                    let list = self.lists[usize::from(decoder)].get(number).map(Vec::as_slice);
                    found.push(Found {
                        layer: place.layer,
                        scope: there.scope,
                        index: there.layer,
                        rest,
                        list,
                    });
                }
            }
        }
        found
    }

    fn part(
        &self,
        wanted: &Wanted,
        dims: &[(String, usize)],
        layer: Option<usize>,
        name: &str,
        index: Option<usize>,
        list: Option<&[usize]>,
    ) -> Result<Part, String> {
        let entry = self
            .from
            .tensor(name)
            .filter(|e| index.is_none() || e.dims.first().is_some_and(|d| d.0 == "layers"));
        let way = match entry {
            Some(entry) if entry.dtype != wanted.dtype => Err(format!("it is {} there", entry.shape())),
            Some(entry) => self.way(wanted, dims, entry, index.is_some(), list),
            None => self.anew(wanted, dims),
        };
        let way = match (way, wanted.kind) {
            // An optimizer builds up its memory again.
            (Err(_), Kind::Slot) => Way::Zeros,
            (way, Kind::Param | Kind::Slot | Kind::Counter) => way?,
        };
        let from = (!matches!(way, Way::Zeros | Way::Random(_))).then(|| (name.to_owned(), index));
        Ok(Part { layer, dims: dims.to_vec(), way, from })
    }

    /// How a tensor is made of the one that is there.
    fn way(
        &self,
        wanted: &Wanted,
        want: &[(String, usize)],
        entry: &Entry,
        of_layer: bool,
        list: Option<&[usize]>,
    ) -> Result<Way, String> {
        let have = &entry.dims[usize::from(of_layer)..];
        let at = |dims: &[(String, usize)]| dims.iter().position(|d| is_experts(&d.0));
        let without = |dims: &[(String, usize)]| -> Vec<(String, usize)> {
            dims.iter().filter(|d| !is_experts(&d.0)).cloned().collect()
        };
        let differs = || Err(format!("it is {} there", entry.shape()));
        if without(want) != without(have) {
            return differs();
        }
        let param = wanted.kind == Kind::Param;
        let last = ["ffn/wo", "attention/q", "attention/kv"].iter().any(|end| wanted.name.ends_with(end));
        let factor = if param && last { self.factor } else { 1.0 };
        match (at(have), at(want)) {
            (None, None) => Ok(Way::Same),
            (Some(dim), Some(there)) if dim == there => match list {
                Some(list) if list.len() == want[dim].1 => {
                    // The router's column of an expert is its own; so are slots.
                    let noise =
                        param && want[dim].0 == "experts_all" && list.windows(2).any(|w| w[0] == w[1]);
                    let whole = list.iter().copied().eq(0..have[dim].1) && factor == 1.0;
                    Ok(if whole { Way::Same } else { Way::Pick { dim, list: list.to_vec(), factor, noise } })
                }
                Some(_) | None => differs(),
            },
            (None, Some(dim)) => Ok(Way::Repeat { dim, count: want[dim].1, factor }),
            (Some(dim), None) => match (self.wanted.ffn, self.wanted.scale.filter(|_| param && last)) {
                (Ffn::Fresh, _) => self.anew(wanted, want),
                (Ffn::Mean, scale) => Ok(Way::Mean { dim, factor: scale.unwrap_or(1.0) }),
                (Ffn::Expert(e), scale) => {
                    Ok(Way::Pick { dim, list: vec![e], factor: scale.unwrap_or(1.0), noise: false })
                }
            },
            (Some(_), Some(_)) => differs(),
        }
    }

    /// Initial values of what the checkpoint does not have: routers, and dense layers in place of experts.
    fn anew(&self, wanted: &Wanted, dims: &[(String, usize)]) -> Result<Way, String> {
        if wanted.kind == Kind::Slot {
            return Ok(Way::Zeros);
        }
        let size = |name: &str| dims.iter().find(|d| d.0 == name).map(|d| d.1 as f64);
        let end = wanted.name.rsplit('/').next().unwrap_or_default();
        let scale = self.target.switch.as_ref().map_or(1.0, |s| s.init_scale);
        match (end, size("d_model"), size("d_ff")) {
            ("router", Some(fan_in), _) => Ok(Way::Random((scale / fan_in).sqrt())),
            ("router_bias", ..) => Ok(Way::Zeros),
            ("wi" | "wi_0" | "wi_1", Some(fan_in), Some(_)) | ("wo", Some(_), Some(fan_in)) => {
                Ok(Way::Random((1.0 / fan_in).sqrt()))
            }
            _ => Err("the checkpoint does not have it".into()),
        }
    }

    /// The value of a part.
    fn make(&self, wanted: &Wanted, part: &Part) -> Result<HostTensor> {
        let mut sizes: Vec<usize> = part.dims.iter().map(|d| d.1).collect();
        let dtype = if wanted.dtype == "f32" { Some(ElementType::F32) } else { None };
        let read = || -> Result<(HostTensor, Vec<usize>)> {
            let (name, index) = part.from.as_ref().context("what is made of another tensor names it")?;
            let value = match index {
                None => self.from.read(name)?,
                Some(index) => {
                    let entry = self.from.tensor(name).context("it was there when this was planned")?;
                    let mut size = entry.sizes();
                    let mut start = vec![0; size.len()];
                    (start[0], size[0]) = (*index, 1);
                    self.from.read_box(name, &start, &size)?
                }
            };
            let dims = value.dims[usize::from(index.is_some())..].to_vec();
            Ok((value, dims))
        };
        let name = format!("{}#{:?}", wanted.name, part.layer);
        let mut random = random::Random::new(self.wanted.seed, &name);
        let (dtype, bytes) = match &part.way {
            Way::Same => read().map(|(v, _)| (v.dtype, v.bytes))?,
            Way::Pick { dim, list, factor, noise } => {
                let (value, dims) = read()?;
                let element = value.dtype.byte_size().context("types of checkpoints have a size")?;
                let mut bytes = pieces::pick(&value.bytes, &dims, element, *dim, list);
                pieces::scale(&mut bytes, *factor);
                if *noise && self.wanted.noise > 0.0 {
                    let deviation = self.wanted.noise * pieces::root_mean_square(&value.bytes);
                    pieces::disturb_copies(&mut bytes, &sizes, *dim, list, || deviation * random.normal());
                }
                (value.dtype, bytes)
            }
            Way::Repeat { dim, count, factor } => {
                let (value, dims) = read()?;
                let element = value.dtype.byte_size().context("types of checkpoints have a size")?;
                let mut bytes = pieces::repeat(&value.bytes, &dims, element, *dim, *count);
                pieces::scale(&mut bytes, *factor);
                (value.dtype, bytes)
            }
            Way::Mean { dim, factor } => {
                let (value, dims) = read()?;
                let mut bytes = pieces::mean(&value.bytes, &dims, *dim);
                pieces::scale(&mut bytes, *factor);
                (value.dtype, bytes)
            }
            Way::Zeros | Way::Random(_) => {
                let deviation = if let Way::Random(deviation) = part.way { deviation } else { 0.0 };
                let count: usize = sizes.iter().product();
                let dtype = dtype.with_context(|| format!("`{}` is no tensor of floats", wanted.name))?;
                let value = |_| (deviation * random.truncated()) as f32;
                (dtype, pieces::floats((0..count).map(value)))
            }
        };
        if part.layer.is_some() {
            sizes.insert(0, 1);
        }
        Ok(HostTensor { dtype, dims: sizes, bytes })
    }
}

/// Where the checkpoint has a layer.
struct Found<'a> {
    /// Its index in the tensor that is wanted.
    layer: usize,
    /// Its scope in the checkpoint.
    scope: String,
    /// Its index there.
    index: usize,
    /// What follows the scope in names.
    rest: &'a str,
    /// Old experts by new ones.
    list: Option<&'a [usize]>,
}

/// How much smaller gates are with `times` as many experts that are alike: the softmax is over all of them.
fn gates_shrink(switch: &Switch, times: usize) -> f64 {
    let over_experts = switch.routing != RoutingMethod::ExpertSelection;
    if switch.renormalizes() || !over_experts { 1.0 } else { times as f64 }
}

/// The same list for every layer with experts.
fn same_in_all(source: &Config, list: &[usize]) -> [Vec<Vec<usize>>; 2] {
    let of =
        |decoder, layers| vec![list.to_vec(); (0..layers).filter(|i| source.is_sparse(decoder, *i)).count()];
    [of(false, source.encoder_layers), of(true, source.decoder_layers)]
}

/// Lines of the metrics whose loads count: the last so many.
const RECENT: usize = 100;

/// For every layer the `new` experts with the most tokens, in their old order.
fn by_load(metrics: &Path, source: &Config, old: usize, new: usize) -> Result<[Vec<Vec<usize>>; 2]> {
    let name = metrics.display();
    let help = "name the file that `meshc train --metrics` wrote for this model";
    let text = std::fs::read_to_string(metrics).with_context(|| format!("reading `{name}`"))?;
    let mut sums = same_in_all(source, &[]).map(|stack| vec![vec![0.0; old]; stack.len()]);
    let mut lines = 0;
    for (number, line) in text.lines().enumerate().skip(text.lines().count().saturating_sub(RECENT)) {
        let record: serde_json::Value = serde_json::from_str(line)
            .map_err(|e| failure(format!("line {} of `{name}` is not JSON: {e}", number + 1), help))?;
        for (stack, sums) in ["encoder", "decoder"].iter().zip(&mut sums).filter(|(_, s)| !s.is_empty()) {
            let load = [format!("{stack}_load"), format!("{stack}_ffn_load")];
            let load = load.iter().find_map(|key| record.get(key));
            let rows: Option<Vec<Vec<f64>>> = load.and_then(|l| serde_json::from_value(l.clone()).ok());
            let rows = rows.filter(|r| r.len() == sums.len() && r.iter().all(|row| row.len() == old));
            let rows = rows.ok_or_else(|| {
                let what = format!(
                    "line {} of `{name}` has no loads of {} layers with {old} experts in the {stack}",
                    number + 1,
                    sums.len()
                );
                failure(what, help)
            })?;
            for (sum, load) in sums.iter_mut().flatten().zip(rows.iter().flatten()) {
                *sum += load;
            }
        }
        lines += 1;
    }
    if lines == 0 {
        return Err(failure(format!("`{name}` has no lines"), help));
    }
    Ok(sums.map(|stack| {
        let best = |loads: Vec<f64>| {
            let mut order: Vec<usize> = (0..old).collect();
            order.sort_by(|a, b| loads[*b].total_cmp(&loads[*a]));
            order.truncate(new);
            order.sort_unstable();
            order
        };
        stack.into_iter().map(best).collect()
    }))
}
