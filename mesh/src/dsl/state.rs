//! State: what lives on the devices from call to call, and how it begins.

use super::{Graph, Rng, Tensor, program::Shared};
use crate::{Diagnostic, Dim, Name, StateDecl, StateId, Type};
use std::{borrow::Borrow, collections::BTreeMap, rc::Rc};

/// A handle of a declared state.
#[derive(Clone, Debug)]
pub struct State(Rc<Handle>);

#[derive(Debug)]
struct Handle {
    name: Name,
    ty: Type,
    /// Nothing if the declaration was a mistake.
    id: Option<StateId>,
    program: Rc<Shared>,
}

impl State {
    pub(super) fn new(name: Name, ty: Type, id: StateId, program: &Rc<Shared>) -> Self {
        Self(Rc::new(Handle { name, ty, id: Some(id), program: Rc::clone(program) }))
    }
    pub(super) fn poison(name: Name, ty: Type, program: &Rc<Shared>) -> Self {
        Self(Rc::new(Handle { name, ty, id: None, program: Rc::clone(program) }))
    }

    /// The full name, with scopes.
    pub fn name(&self) -> &Name {
        &self.0.name
    }
    /// The declared type.
    pub fn ty(&self) -> &Type {
        &self.0.ty
    }
    /// The declared dims.
    pub fn dims(&self) -> Vec<Dim> {
        self.0.ty.logical().cloned().collect()
    }

    /// The value as it was when the function was called, whatever has been assigned since. Inside a scan
    /// over one of its dims, this is the slice of the current iteration, so that a layer need not know
    /// whether it is stacked.
    #[track_caller]
    pub fn read<'g>(&self, g: &'g Graph) -> Tensor<'g> {
        let site = g.site();
        match self.own(g) {
            Ok(Some(id)) => g.read(id, &site),
            Ok(None) => g.poison(),
            Err(diagnostic) => {
                g.note(diagnostic, &site);
                g.poison()
            }
        }
    }

    /// The value once the function has returned. At most one assignment per function, at its top level.
    #[track_caller]
    pub fn assign(&self, value: Tensor<'_>) {
        let (g, site) = (value.graph, value.graph.site());
        match self.own(g) {
            Ok(Some(id)) => g.write(id, value, &site),
            Ok(None) => {}
            Err(diagnostic) => g.note(diagnostic, &site),
        }
    }

    fn own(&self, g: &Graph) -> Result<Option<StateId>, Diagnostic> {
        if g.belongs_to(&self.0.program) {
            return Ok(self.0.id);
        }
        Err(Diagnostic::new("", format!("state `{}` belongs to another program", self.0.name))
            .help("declare it in the program whose function uses it"))
    }
}

/// How a state begins.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// All the same.
    Constant(f64),
    /// Normal with mean 0 and this deviation.
    Normal(f64),
    /// Normal with mean 0 and this deviation, drawn again while beyond two deviations.
    TruncatedNormal(f64),
}

impl Init {
    /// The truncated normal of the Switch Transformer paper (section 2.4): deviation
    /// `sqrt(scale / fan_in)`, where `fan_in` are the dims that the product sums over.
    pub fn truncated_normal<D: Borrow<Dim>>(scale: f64, fan_in: &[D]) -> Self {
        let fan_in: usize = fan_in.iter().map(|d| d.borrow().size).product();
        Self::TruncatedNormal((scale / fan_in as f64).sqrt())
    }

    pub(super) fn legal(self, ty: &Type) -> Result<(), Diagnostic> {
        match self {
            Self::Zeros | Self::Ones | Self::Constant(_) => Ok(()),
            Self::Normal(deviation) | Self::TruncatedNormal(deviation) => {
                if !ty.dtype.is_float() {
                    return Err(Diagnostic::new("", format!("a random initial value of type {}", ty.dtype))
                        .help("give it a constant; only floats begin at random"));
                }
                if deviation.is_finite() && deviation >= 0.0 {
                    return Ok(());
                }
                Err(Diagnostic::new("", format!("{deviation} is not a deviation")).help("a number from 0"))
            }
        }
    }

    /// The initial value of `state`, in the body of `init`.
    pub(super) fn value<'g>(self, seed: Tensor<'g>, state: &StateDecl, stream: u32) -> Tensor<'g> {
        let (g, site, dtype) = (seed.graph, &state.site, state.ty.dtype);
        let dims: Vec<Dim> = state.ty.logical().cloned().collect();
        let full = |value: f64| g.number(value, dtype, site).broadcast_at(&dims, site);
        let random = |dist, deviation: f64| {
            let rng = Rng::new(seed, g.number(0.0, crate::DType::U32, site));
            let x = rng.draw(dist, &dims, dtype, stream, site);
            x.times(g.number(deviation, dtype, site), site)
        };
        match self {
            Self::Zeros => full(0.0),
            Self::Ones => full(1.0),
            Self::Constant(value) => full(value),
            Self::Normal(deviation) => random(crate::ir::Dist::Normal, deviation),
            Self::TruncatedNormal(deviation) => random(crate::ir::Dist::TruncatedNormal, deviation),
        }
    }
}

/// A random stream for each name: a hash of the name, made unique in the order of the names.
pub(super) fn streams(names: &[&Name]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|i| names[*i]);
    let mut taken = BTreeMap::new();
    for i in order {
        let mut stream = hash(names[i]);
        while taken.contains_key(&stream) {
            stream = stream.wrapping_add(0x9E37_79B9);
        }
        taken.insert(stream, i);
    }
    let mut streams = vec![0; names.len()];
    taken.into_iter().for_each(|(stream, i)| streams[i] = stream);
    streams
}

/// FNV-1a, 32 bits: stable across versions and platforms, unlike the hashes of the standard library.
pub(super) fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
