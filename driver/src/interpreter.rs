//! The reference interpreter in place of a plugin.

use crate::{
    artefact::with_local, failure::failure, plugin::INTERPRETER, program::Program, request::Request,
    subject::is_compiled,
};
use anyhow::Result;
use compiler::interp::{self, Precision, Tensor, Tensors};
use mesh::{DType, Diagnostics, Dim, Name, Type, verify::Local};
use runtime::{Artefact, ElementType, Error, HostTensor, Interpreted, Interpreter};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// The program of one device. All devices of its mesh are simulated.
struct Reference(Local);

/// Compiles a program as [`crate::artefact::of_program`] does. Returns the artefact, and the interpreter that
/// calls its functions.
///
/// # Errors
/// The program is invalid, or the request has options of plugins.
pub fn of_program(program: &Program, request: &Request) -> Result<(Artefact, Arc<dyn Interpreter>)> {
    check(request)?;
    let (artefact, local) = with_local(program, request)?;
    Ok((artefact, Arc::new(Reference(local))))
}

/// Refuses what has no effect on the interpreter.
///
/// # Errors
/// The subject is compiled, or the request has options of plugins and of their compilers.
pub fn check(request: &Request) -> Result<()> {
    let subject = request.subject.display();
    if is_compiled(&request.subject) {
        return Err(failure(
            format!("`{subject}` is compiled, and the interpreter runs programs"),
            "name the model itself, or a file of `meshc compile --dump`",
        ));
    }
    let profile = request.profile.as_ref().map(|_| "--profile".to_owned());
    let client = request.plugin.client_options.first().map(|(key, _)| format!("--client-option {key}"));
    let Some(option) = profile.or(client).or(request.flags.words().next()) else { return Ok(()) };
    Err(unused(&option))
}

/// Returns the error for an option of plugins.
pub fn unused(option: &str) -> anyhow::Error {
    failure(
        format!("`{option}` has no effect on the interpreter"),
        format!("leave it out, or name a plugin instead of `--plugin {INTERPRETER}`"),
    )
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reference interpreter")
    }
}

impl Interpreter for Reference {
    fn call(
        &self,
        function: &str,
        inputs: &BTreeMap<String, HostTensor>,
        state: &BTreeMap<String, &HostTensor>,
    ) -> runtime::Result<Interpreted> {
        let module = self.0.module();
        let types: BTreeMap<&str, &Type> =
            module.env.states.iter().map(|(_, state)| (state.name.as_str(), &state.ty)).collect();
        let body = &module.require_function(function).map_err(|d| failed(function, d.into()))?;
        let declared = body.inputs.iter().map(Name::as_str).zip(body.body.param_types());
        let given = declared.filter_map(|(name, ty)| Some((name, from_host(inputs.get(name)?, ty))));
        let given = given.map(|(name, tensor)| Ok((name.into(), tensor?))).collect::<runtime::Result<_>>()?;
        let read = |(name, value): (&String, &&HostTensor)| {
            let ty = types.get(name.as_str());
            let ty = ty.expect("the manifest is that of the program");
            Ok((name.as_str().into(), from_host(value, ty)?))
        };
        let before: Tensors = state.iter().map(read).collect::<runtime::Result<_>>()?;
        let outcome = interp::run(module, function, &given, &before, Precision::Normal)
            .map_err(|d| failed(function, d.into()))?;
        let results = body.outputs.iter().map(Name::as_str).zip(body.body.result_types());
        let outputs = results.map(|(name, ty)| (name.to_owned(), to_host(&outcome.outputs[name], ty)));
        let after = outcome
            .state
            .iter()
            .map(|(name, tensor)| (name.to_string(), to_host(tensor, types[name.as_str()])));
        Ok(Interpreted { outputs: outputs.collect(), state: after.collect() })
    }
}

/// Returns the error of a call.
fn failed(function: &str, why: Diagnostics) -> Error {
    Error::input(format!("interpreting `{function}`: {why}"), "correct the program")
}

/// Converts a tensor of the interpreter: dims in the order of the type.
pub(crate) fn to_host(tensor: &Tensor, ty: &Type) -> HostTensor {
    let names: Vec<Name> = ty.names().cloned().collect();
    let ordered = tensor.ordered(&names);
    let dtype = match ty.dtype {
        DType::Pred => ElementType::Pred,
        DType::S32 => ElementType::S32,
        DType::U32 => ElementType::U32,
        DType::Bf16 => ElementType::Bf16,
        DType::F32 => ElementType::F32,
    };
    HostTensor { dtype, dims: ty.logical().map(|d| d.size).collect(), bytes: ordered.to_bytes() }
}

/// Converts a tensor for the interpreter.
///
/// # Errors
/// The bytes are not those of a tensor of this type.
pub(crate) fn from_host(value: &HostTensor, ty: &Type) -> runtime::Result<Tensor> {
    let dims: Vec<Dim> = ty.logical().cloned().collect();
    Tensor::from_bytes(ty.dtype, &dims, &value.bytes)
        .map_err(|why| Error::input(why, "this is a bug: report it with the program"))
}
