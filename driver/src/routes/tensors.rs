//! Recorded choices in the outputs of a program.

use crate::failure::failure;
use anyhow::Result;
use models::routes::PREFIX;
use runtime::{Artefact, HostTensor};
use std::collections::BTreeMap;

/// The outputs of the routers of one output name, for a batch: for each layer, in the order of the output.
pub(super) struct Recorded {
    pub(super) chosen: Vec<Vec<i32>>,
    pub(super) gate: Vec<Vec<f32>>,
    pub(super) state: Option<Vec<Vec<u8>>>,
    pub(super) priority: Option<Vec<Vec<f32>>>,
}

/// Returns the recorded choices of a router; `outputs` are those of one call.
pub(super) fn recorded(
    artefact: &Artefact,
    outputs: &BTreeMap<String, HostTensor>,
    router: &str,
) -> Result<Recorded> {
    let all = |what: &str| -> Result<Option<Vec<Vec<f64>>>> {
        let name = format!("{PREFIX}{router}/{what}");
        let Some(value) = outputs.get(&name) else { return Ok(None) };
        Ok(Some(by_layer(&value.to_f64()?, &dims(artefact, &name)?)))
    };
    let of = |what: &str| {
        all(what)?.ok_or_else(|| {
            failure(
                format!("the program has no output `{PREFIX}{router}/{what}`"),
                "name a checkpoint of a model of the library `models`, not an artefact",
            )
        })
    };
    let floats = |all: Vec<Vec<f64>>| each(all, |x| x as f32);
    Ok(Recorded {
        chosen: each(of("chosen")?, |x| x as i32),
        gate: floats(of("gate")?),
        state: all("state")?.map(|all| each(all, |x| x as u8)),
        priority: all("priority")?.map(floats),
    })
}

fn each<T>(all: Vec<Vec<f64>>, to: impl Fn(f64) -> T) -> Vec<Vec<T>> {
    all.into_iter().map(|layer| layer.into_iter().map(&to).collect()).collect()
}

/// Returns the dims of an output of `eval_step`.
fn dims(artefact: &Artefact, name: &str) -> Result<Vec<(String, usize)>> {
    let outputs = &artefact.function("eval_step")?.outputs;
    let tensor = outputs.iter().find(|o| o.name == name).and_then(|o| o.tensor.as_ref());
    let dims = tensor.map(|t| t.dims.iter().map(|d| (d.name.clone(), d.size as usize)).collect());
    Ok(dims.unwrap_or_default())
}

/// Returns the elements of each layer in the order of the dims `batch`, tokens or slots, and `choices`.
fn by_layer(values: &[f64], dims: &[(String, usize)]) -> Vec<Vec<f64>> {
    let rank = |name: &str| match name {
        "layers" => 0,
        "batch" => 1,
        "choices" => 3,
        _ => 2,
    };
    let mut order: Vec<usize> = (0..dims.len()).collect();
    order.sort_by_key(|d| rank(&dims[*d].0));
    let stride = |d: usize| dims[d + 1..].iter().map(|(_, size)| size).product::<usize>();
    let mut offsets = vec![0];
    for d in &order {
        let step = stride(*d);
        offsets = offsets.iter().flat_map(|at| (0..dims[*d].1).map(move |i| at + i * step)).collect();
    }
    let layers = order.first().filter(|d| dims[**d].0 == "layers").map_or(1, |d| dims[*d].1);
    let each = (offsets.len() / layers.max(1)).max(1);
    offsets.chunks(each).map(|layer| layer.iter().map(|at| values[*at]).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_in_the_order_of_tokens_whatever_the_order_of_dims() {
        let dims = |all: &[(&str, usize)]| all.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect::<Vec<_>>();
        // Values are layer * 1000 + batch * 100 + token * 10 + choice.
        let plain: Vec<f64> = [0, 1]
            .iter()
            .flat_map(|l| [0, 1].map(|b| (l, b)))
            .flat_map(|(l, b)| [0, 1, 2].map(|t| (l, b, t)))
            .flat_map(|(l, b, t)| [0, 1].map(|c| f64::from(l * 1000 + b * 100 + t * 10 + c)))
            .collect();
        let expect: Vec<Vec<f64>> = plain.chunks(12).map(<[f64]>::to_vec).collect();
        assert_eq!(
            by_layer(&plain, &dims(&[("layers", 2), ("batch", 2), ("length", 3), ("choices", 2)])),
            expect
        );
        // The same with the dims `choices`, `length`, `layers`, `batch`.
        let mut moved = Vec::new();
        for c in 0..2 {
            for t in 0..3 {
                for l in 0..2 {
                    for b in 0..2 {
                        moved.push(plain[l * 12 + b * 6 + t * 2 + c]);
                    }
                }
            }
        }
        assert_eq!(
            by_layer(&moved, &dims(&[("choices", 2), ("length", 3), ("layers", 2), ("batch", 2)])),
            expect
        );
    }
}
