//! Expert surgery: changes the number of experts of a checkpoint, makes a dense model sparse, or a sparse
//! model dense.
//!
//! Every state tensor of the new program is built from the tensor of the checkpoint with the same role, layer
//! by layer, because models with experts in some layers stack their layers differently. All tensors are
//! planned first, so that all mismatches are reported at once; then they are read and written, one layer of
//! one tensor at a time. docs/checkpoints.md describes the properties of the result.
//!
//! Reading order: [`convert`], [`Conversion`] (the request), the planner, `Recipe` (the computation of a
//! part), `pieces`.

mod drop;
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

/// A requested conversion.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// The number of experts. `None` means a dense model.
    pub experts: Option<usize>,
    /// The experts to keep if their number decreases.
    pub keep: Option<Keep>,
    /// The dense layers that replace experts.
    pub ffn: Ffn,
    /// The factor of the last matrix of every expert. `None` means the factor that preserves the output of
    /// the layer.
    pub scale: Option<f64>,
    /// Noise on the router columns of copied experts, relative to the root mean square of the router.
    pub noise: f64,
    /// The share of the hidden units of every expert that gets new weights if a dense model becomes sparse
    /// (drop-upcycling); 0 means that experts are copies.
    pub reinitialize: f64,
    /// The seed of the noise and of initial values.
    pub seed: u64,
    /// Further settings of the new model.
    pub settings: Vec<String>,
}

/// A selection of experts.
#[derive(Clone, Debug)]
pub enum Keep {
    /// The same experts in every layer.
    These(Vec<usize>),
    /// In each layer the experts with the highest load in a metrics file.
    ByLoad(PathBuf),
}

/// The initial weights of dense layers that replace experts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ffn {
    /// Random initial values, as in the paper's distillation (section 4.2).
    Fresh,
    /// The mean of all experts.
    Mean,
    /// One expert.
    Expert(usize),
}

/// A summary of a conversion.
#[derive(Debug)]
pub struct Converted {
    /// Number of copied tensors.
    pub same: usize,
    /// Number of tensors that were computed from others.
    pub made: usize,
    /// Parameters with initial values.
    pub fresh: Vec<String>,
    /// Number of slots that were set to zero.
    pub zeroed: usize,
}

/// Converts `from` as requested and writes the checkpoint `out`.
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
            format!("`{}` cannot be converted:\n    {}", from.dir().display(), wrong.join("\n    ")),
            "only settings of experts can change; `meshc checkpoint list` shows the settings of a checkpoint",
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
    if let Some(tokenizer) = from.tokenizer()? {
        writer.tokenizer(&tokenizer)?;
    }
    let mut described = from.facts().clone();
    // The result is no longer the imported model.
    described.retain(|name, _| !name.starts_with("hf."));
    let (model, settings) = target.described();
    described.insert(facts::MODEL.into(), model.into());
    described.insert(facts::SETTINGS.into(), settings);
    described.insert("converted_from".into(), wanted.said(&source, from));
    writer.finish(described, from.step())?;
    Ok(done)
}

impl Conversion {
    /// Returns the configuration of the new model.
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
        let sized = |config: &Config| config.switch.as_ref().is_some_and(|s| !s.expert_sizes.is_empty());
        if sized(source) || sized(&config) {
            return Err(failure(
                "experts of several sizes (`expert_sizes`) cannot be copied, selected or averaged",
                "convert models whose experts are all alike",
            ));
        }
        if self.reinitialize > 0.0 && (self.experts.is_none() || source.switch.is_some()) {
            return Err(failure(
                format!("`--reinitialize {}` needs a dense model that becomes sparse", self.reinitialize),
                "leave it out, or convert a dense model with --experts",
            ));
        }
        if mistakes.is_empty() {
            return Ok(config);
        }
        Err(failure(
            format!("invalid settings:\n{}", Diagnostics(mistakes)),
            "correct --experts, or --set KEY=VALUE",
        ))
    }

    fn said(&self, source: &Config, from: &Checkpoint) -> String {
        let was = source.switch.as_ref().map_or("a dense model".into(), |s| format!("{} experts", s.experts));
        format!("{was}, step {}, {}", from.step(), from.dir().display())
    }
}

/// A state tensor of the new program.
#[derive(Debug)]
struct Wanted {
    name: String,
    kind: Kind,
    dtype: String,
    dims: Vec<(String, usize)>,
}

/// One layer of a tensor, or a whole tensor.
#[derive(Debug)]
struct Part {
    /// The index along `layers`. `None` for a whole tensor.
    layer: Option<usize>,
    /// The dims of the part, without `layers`.
    dims: Vec<(String, usize)>,
    recipe: Recipe,
    /// The tensor of the checkpoint it is computed from: name, and index along `layers`.
    from: Option<(String, Option<usize>)>,
}

/// The computation of a part.
#[derive(Clone, PartialEq, Debug)]
enum Recipe {
    /// A copy.
    Same,
    /// The indices `list` of dim `dim`, times a factor. Copies of router columns get noise.
    Pick { dim: usize, list: Vec<usize>, factor: f64, noise: bool },
    /// Repetition along a new dim, times a factor.
    Repeat { dim: usize, count: usize, factor: f64 },
    /// The mean over dim `dim`, times a factor.
    Mean { dim: usize, factor: f64 },
    /// Zeros: the initial value of slots.
    Zeros,
    /// Truncated normal values with this standard deviation.
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
        let is = |test: fn(&Recipe) -> bool| parts.iter().any(|p| test(&p.recipe));
        if is(|w| matches!(w, Recipe::Random(_))) {
            self.fresh.push(wanted.name.clone());
        } else if is(|w| *w == Recipe::Zeros) {
            match wanted.kind {
                Kind::Slot | Kind::Counter => self.zeroed += 1,
                Kind::Param => self.fresh.push(wanted.name.clone()),
            }
        } else if is(|w| *w != Recipe::Same) {
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

/// Plans the computation of every tensor.
struct Planner<'a> {
    from: &'a Checkpoint,
    wanted: &'a Conversion,
    source: &'a Config,
    target: &'a Config,
    /// Old expert by new expert, for each sparse layer of the encoder and the decoder.
    lists: [Vec<Vec<usize>>; 2],
    /// The factor that preserves the output of a layer whose gates change.
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
        let lists = kept_experts(wanted.keep.as_ref(), source, old, new)?;
        if let (Ffn::Expert(e), true) = (wanted.ffn, new == 0)
            && e >= old
        {
            return Err(failure(
                format!("`--ffn {e}`: there is no expert {e} among {old}"),
                "use fresh, mean, or the number of an expert, from 0",
            ));
        }
        let factor = match (&target.switch, old) {
            (Some(switch), 0) => gates_shrink(switch, new),
            (Some(switch), _) if new > old => gates_shrink(switch, new / old),
            (Some(_) | None, _) => 1.0,
        };
        Ok(Self { from, wanted, source, target, lists, factor: wanted.scale.unwrap_or(factor) })
    }

    /// Plans the parts of a tensor. The error is a reason.
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

    /// Returns the places in the checkpoint of all layers of the tensor `name` of the new program.
    fn places<'n>(&'n self, name: &'n str) -> Vec<Found<'n>> {
        let mut found = Vec::new();
        for (decoder, layers) in [(false, self.target.encoder_layers), (true, self.target.decoder_layers)] {
            let mut sparse = 0;
            for i in 0..layers {
                let place = Stack::location(self.target, decoder, i);
                let there = Stack::location(self.source, decoder, i);
                let number = sparse;
                sparse += usize::from(self.source.is_sparse(decoder, i));
                // A slash must follow, because a scope can be a prefix of another one.
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
        let recipe = match entry {
            Some(entry) if entry.dtype != wanted.dtype => {
                Err(format!("the checkpoint has {}", entry.shape()))
            }
            Some(entry) => self.recipe(wanted, dims, entry, index.is_some(), list),
            None => self.initial(wanted, dims),
        };
        let recipe = match (recipe, wanted.kind) {
            // The optimizer rebuilds its slots.
            (Err(_), Kind::Slot) => Recipe::Zeros,
            (recipe, Kind::Param | Kind::Slot | Kind::Counter) => recipe?,
        };
        let from = (!matches!(recipe, Recipe::Zeros | Recipe::Random(_))).then(|| (name.to_owned(), index));
        Ok(Part { layer, dims: dims.to_vec(), recipe, from })
    }

    /// Plans the computation of a part from an existing tensor.
    fn recipe(
        &self,
        wanted: &Wanted,
        want: &[(String, usize)],
        entry: &Entry,
        of_layer: bool,
        list: Option<&[usize]>,
    ) -> Result<Recipe, String> {
        let have = &entry.dims[usize::from(of_layer)..];
        let at = |dims: &[(String, usize)]| dims.iter().position(|d| is_experts(&d.0));
        let without = |dims: &[(String, usize)]| -> Vec<(String, usize)> {
            dims.iter().filter(|d| !is_experts(&d.0)).cloned().collect()
        };
        let differs = || Err(format!("the checkpoint has {}", entry.shape()));
        if without(want) != without(have) {
            return differs();
        }
        let param = wanted.kind == Kind::Param;
        let last = ["ffn/wo", "attention/q", "attention/kv"].iter().any(|end| wanted.name.ends_with(end));
        let factor = if param && last { self.factor } else { 1.0 };
        match (at(have), at(want)) {
            (None, None) => Ok(Recipe::Same),
            (Some(dim), Some(there)) if dim == there => match list {
                Some(list) if list.len() == want[dim].1 => {
                    // Only copies of router columns get noise, and slots get none.
                    let noise =
                        param && want[dim].0 == "experts_all" && list.windows(2).any(|w| w[0] == w[1]);
                    let whole = list.iter().copied().eq(0..have[dim].1) && factor == 1.0;
                    Ok(if whole {
                        Recipe::Same
                    } else {
                        Recipe::Pick { dim, list: list.to_vec(), factor, noise }
                    })
                }
                Some(_) | None => differs(),
            },
            (None, Some(dim)) => Ok(Recipe::Repeat { dim, count: want[dim].1, factor }),
            (Some(dim), None) => match (self.wanted.ffn, self.wanted.scale.filter(|_| param && last)) {
                (Ffn::Fresh, _) => self.initial(wanted, want),
                (Ffn::Mean, scale) => Ok(Recipe::Mean { dim, factor: scale.unwrap_or(1.0) }),
                (Ffn::Expert(e), scale) => {
                    Ok(Recipe::Pick { dim, list: vec![e], factor: scale.unwrap_or(1.0), noise: false })
                }
            },
            (Some(_), Some(_)) => differs(),
        }
    }

    /// Plans initial values of tensors that the checkpoint lacks: routers, and dense layers that replace
    /// experts.
    fn initial(&self, wanted: &Wanted, dims: &[(String, usize)]) -> Result<Recipe, String> {
        if wanted.kind == Kind::Slot {
            return Ok(Recipe::Zeros);
        }
        let size = |name: &str| dims.iter().find(|d| d.0 == name).map(|d| d.1 as f64);
        let end = wanted.name.rsplit('/').next().unwrap_or_default();
        let scale = self.target.sparse_layers().map_or(1.0, |s| s.router_scale());
        match (end, size("d_model"), size("d_ff")) {
            ("router", Some(fan_in), _) => Ok(Recipe::Random((scale / fan_in).sqrt())),
            ("router_bias", ..) => Ok(Recipe::Zeros),
            ("wi" | "wi_0" | "wi_1", Some(fan_in), Some(_)) | ("wo", Some(_), Some(fan_in)) => {
                Ok(Recipe::Random((1.0 / fan_in).sqrt()))
            }
            _ => Err("the checkpoint lacks it".into()),
        }
    }

    /// Gives hidden units of the experts in a new matrix new weights, if that is requested.
    fn drop_units(&self, wanted: &Wanted, part: &Part, bytes: &mut [u8], experts: usize) {
        let hidden = part.dims.iter().position(|d| d.0 == "d_ff");
        let (Some(hidden), Kind::Param, true) = (hidden, wanted.kind, self.wanted.reinitialize > 0.0) else {
            return;
        };
        let drop = drop::DropUnits { share: self.wanted.reinitialize, seed: self.wanted.seed };
        let sizes: Vec<usize> = part.dims.iter().map(|d| d.1).collect();
        let scope = wanted.name.rsplit_once('/').map_or("", |(scope, _)| scope);
        let [layer, name] = [scope, &wanted.name].map(|name| format!("{name}#{:?}", part.layer));
        drop.apply(bytes, &sizes, [experts, hidden], (&layer, &name));
    }

    /// Computes a part.
    fn make(&self, wanted: &Wanted, part: &Part) -> Result<HostTensor> {
        let mut sizes: Vec<usize> = part.dims.iter().map(|d| d.1).collect();
        let dtype = if wanted.dtype == "f32" { Some(ElementType::F32) } else { None };
        let read = || -> Result<(HostTensor, Vec<usize>)> {
            let (name, index) = part.from.as_ref().context("a computed part names its source")?;
            let value = match index {
                None => self.from.read(name)?,
                Some(index) => {
                    let entry = self.from.tensor(name).context("the planned tensor exists")?;
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
        let (dtype, bytes) = match &part.recipe {
            Recipe::Same => read().map(|(v, _)| (v.dtype, v.bytes))?,
            Recipe::Pick { dim, list, factor, noise } => {
                let (value, dims) = read()?;
                let element = value.dtype.byte_size().context("element types of checkpoints have a size")?;
                let mut bytes = pieces::pick(&value.bytes, &dims, element, *dim, list);
                pieces::scale(&mut bytes, *factor);
                if *noise && self.wanted.noise > 0.0 {
                    let deviation = self.wanted.noise * pieces::root_mean_square(&value.bytes);
                    pieces::disturb_copies(&mut bytes, &sizes, *dim, list, || deviation * random.normal());
                }
                (value.dtype, bytes)
            }
            Recipe::Repeat { dim, count, factor } => {
                let (value, dims) = read()?;
                let element = value.dtype.byte_size().context("element types of checkpoints have a size")?;
                let mut bytes = pieces::repeat(&value.bytes, &dims, element, *dim, *count);
                pieces::scale(&mut bytes, *factor);
                self.drop_units(wanted, part, &mut bytes, *dim);
                (value.dtype, bytes)
            }
            Recipe::Mean { dim, factor } => {
                let (value, dims) = read()?;
                let mut bytes = pieces::mean(&value.bytes, &dims, *dim);
                pieces::scale(&mut bytes, *factor);
                (value.dtype, bytes)
            }
            Recipe::Zeros | Recipe::Random(_) => {
                let deviation = if let Recipe::Random(deviation) = part.recipe { deviation } else { 0.0 };
                let count: usize = sizes.iter().product();
                let dtype = dtype.with_context(|| format!("`{}` is not an f32 tensor", wanted.name))?;
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

/// The place of a layer in the checkpoint.
struct Found<'a> {
    /// The index in the new tensor.
    layer: usize,
    /// The scope in the checkpoint.
    scope: String,
    /// The index in the tensor of the checkpoint.
    index: usize,
    /// The rest of the name after the scope.
    rest: &'a str,
    /// Old expert by new expert.
    list: Option<&'a [usize]>,
}

/// Returns the factor by which gates shrink with `times` as many equal experts: the softmax is over all
/// experts.
fn gates_shrink(switch: &Switch, times: usize) -> f64 {
    let over_experts = switch.routing != RoutingMethod::ExpertSelection;
    if switch.renormalizes() || !over_experts { 1.0 } else { times as f64 }
}

/// Returns the old expert of each new expert, for each sparse layer of the encoder and the decoder.
fn kept_experts(
    keep: Option<&Keep>,
    source: &Config,
    old: usize,
    new: usize,
) -> Result<[Vec<Vec<usize>>; 2]> {
    Ok(match (old, new, keep) {
        (0, _, None) | (_, 0, None) => Default::default(),
        (_, _, None) if new.is_multiple_of(old) => {
            let copies = new / old;
            same_in_all(source, &(0..new).map(|e| e / copies).collect::<Vec<_>>())
        }
        (_, _, None) if new > old => {
            return Err(failure(
                format!("`--experts {new}`: {new} experts cannot be copies of {old}"),
                "request a multiple: every expert gets the same number of copies",
            ));
        }
        (_, _, None) => {
            return Err(failure(
                format!("`--experts {new}` does not tell which {new} of the {old} experts stay"),
                "list them with --keep-experts, or select those with the highest load with --keep-by-load METRICS",
            ));
        }
        (_, _, Some(_)) if new == 0 || new > old => {
            return Err(failure(
                format!(
                    "`--keep-experts` and `--keep-by-load` have no effect: {new} of {old} experts are requested"
                ),
                "use them with a smaller number of experts",
            ));
        }
        (_, _, Some(Keep::These(list))) => {
            let good = list.len() == new && list.iter().all(|e| *e < old);
            if !good || list.iter().enumerate().any(|(i, e)| list[..i].contains(e)) {
                return Err(failure(
                    format!(
                        "`--keep-experts {list:?}` must list {new} different experts of 0 to {}",
                        old - 1
                    ),
                    "list as many as --experts requests, each once",
                ));
            }
            same_in_all(source, list)
        }
        (_, _, Some(Keep::ByLoad(metrics))) => by_load(metrics, source, old, new)?,
    })
}

/// Returns the same list for every sparse layer.
fn same_in_all(source: &Config, list: &[usize]) -> [Vec<Vec<usize>>; 2] {
    let of =
        |decoder, layers| vec![list.to_vec(); (0..layers).filter(|i| source.is_sparse(decoder, *i)).count()];
    [of(false, source.encoder_layers), of(true, source.decoder_layers)]
}

/// Number of lines, from the end of a metrics file, whose loads are summed.
const RECENT: usize = 100;

/// Returns for every layer the `new` experts with the highest load, in their old order.
fn by_load(metrics: &Path, source: &Config, old: usize, new: usize) -> Result<[Vec<Vec<usize>>; 2]> {
    let name = metrics.display();
    let help = "name a file that `meshc train --metrics` has written for this model";
    let text = proto::regular::read_to_string(metrics).with_context(|| format!("reading `{name}`"))?;
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
