//! Whole tensors to shards, and back.

use super::Tensor;
use mesh::{AxisId, Mesh, Type};
use ndarray::{ArrayD, IxDyn, SliceInfoElem};

/// Each device's shard of a whole tensor of type `ty`, in the type's order of dims. Fails if the tensor is
/// not of that type, or the type is pending.
pub fn shard(tensor: &Tensor, ty: &Type, mesh: &Mesh) -> Result<Vec<Tensor>, String> {
    no_debts(ty, mesh)?;
    if !tensor.fits(ty) {
        let dims: Vec<String> = tensor.dims().iter().map(|d| d.to_string()).collect();
        let have = format!("{}[{}]", tensor.dtype, dims.join(", "));
        return Err(format!("the value is {have}, not {}", ty.unsharded().display(mesh)));
    }
    let names: Vec<_> = ty.names().cloned().collect();
    let data = tensor.by(&names);
    let part = |device| Tensor {
        dtype: ty.dtype,
        names: names.clone(),
        data: data.slice(&*place(ty, mesh, device)).to_owned(),
    };
    Ok((0..mesh.devices()).map(part).collect())
}

/// The whole tensor of type `ty` from its shards. Devices with the same shard must agree up to `tolerance`
/// times the larger number (0: bit for bit); the error names an axis along which they do not.
pub fn gather(parts: &[Tensor], ty: &Type, mesh: &Mesh, tolerance: f64) -> Result<Tensor, String> {
    no_debts(ty, mesh)?;
    if parts.len() != mesh.devices() {
        return Err(format!("{} parts for a mesh of {} devices", parts.len(), mesh.devices()));
    }
    let local = ty.local_shape(mesh);
    let names: Vec<_> = ty.names().cloned().collect();
    let mut ordered = Vec::new();
    for (device, part) in parts.iter().enumerate() {
        let known = names.len() == part.names.len() && names.iter().all(|n| part.names.contains(n));
        let data = known.then(|| part.by(&names)).filter(|data| data.shape() == local);
        ordered.push(data.ok_or_else(|| {
            format!(
                "device {device} holds {:?}, but its part of {} is {local:?}",
                part.dims(),
                ty.display(mesh)
            )
        })?);
    }
    for axis in mesh.ids().filter(|a| !ty.split().contains(*a)) {
        replicas_agree(&ordered, ty, mesh, axis, tolerance)?;
    }
    let shape: Vec<usize> = ty.logical().map(|d| d.size).collect();
    let mut data = ArrayD::zeros(IxDyn(&shape));
    for (device, part) in ordered.iter().enumerate() {
        data.slice_mut(&*place(ty, mesh, device)).assign(part);
    }
    Ok(Tensor { dtype: ty.dtype, names, data })
}

/// The position of a device's shard in the whole array.
fn place(ty: &Type, mesh: &Mesh, device: usize) -> Vec<SliceInfoElem> {
    let range = |d: &mesh::TensorDim| {
        let local = d.dim.size / mesh.product(&d.axes);
        let start = local * mesh.index_along(device, &d.axes);
        SliceInfoElem::from(start..start + local)
    };
    ty.dims.iter().map(range).collect()
}

fn no_debts(ty: &Type, mesh: &Mesh) -> Result<(), String> {
    if ty.pending().is_empty() {
        return Ok(());
    }
    Err(format!("{} is still pending and has no whole value", ty.display(mesh)))
}

fn replicas_agree(
    parts: &[ArrayD<f64>],
    ty: &Type,
    mesh: &Mesh,
    axis: AxisId,
    tolerance: f64,
) -> Result<(), String> {
    for group in mesh.groups(&[axis]) {
        for device in &group[1..] {
            let mut pairs = parts[group[0]].iter().zip(&parts[*device]).enumerate();
            if let Some((element, (a, b))) = pairs.find(|(_, (a, b))| !same(**a, **b, tolerance)) {
                return Err(format!(
                    "{} is replicated along axis `{}`, but element {element} is {a} on device {} and {b} on device \
                     {device}",
                    ty.display(mesh),
                    mesh.name(axis),
                    group[0]
                ));
            }
        }
    }
    Ok(())
}

fn same(a: f64, b: f64, tolerance: f64) -> bool {
    let near = || (a - b).abs() <= tolerance * a.abs().max(b.abs()) && a.is_finite() && b.is_finite();
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan() || tolerance > 0.0 && near()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::{DType, Dim, Layout};

    fn example() -> (Tensor, Type, Mesh) {
        let mesh = Mesh::parse("data=2,model=2").unwrap();
        let dims = [Dim::new("a", 4), Dim::new("b", 3)];
        let layout = Layout::parse("a:model+data").unwrap().resolve(&mesh).unwrap();
        let ty = layout.apply(&Type::new(DType::F32, dims.clone()));
        (Tensor::new(DType::F32, &dims, (0..12).map(f64::from).collect()).unwrap(), ty, mesh)
    }

    #[test]
    fn shards_follow_the_order_of_axes_and_come_back() {
        let (tensor, ty, mesh) = example();
        let parts = shard(&tensor.ordered(&["b".into(), "a".into()]), &ty, &mesh).unwrap();
        // Device 1 is (data 0, model 1): the major axis of `a` is model.
        assert_eq!(parts[1].elements(), [6., 7., 8.]);
        assert_eq!(parts[2].elements(), [3., 4., 5.]);
        assert_eq!(gather(&parts, &ty, &mesh, 0.0).unwrap(), tensor);
    }

    #[test]
    fn replicas_that_differ_are_named() {
        let (tensor, mut ty, mesh) = example();
        ty.dims[0].axes.pop();
        let mut parts = shard(&tensor, &ty, &mesh).unwrap();
        parts[2].data[[0, 1]] = 1.001;
        let error = gather(&parts, &ty, &mesh, 0.0).unwrap_err();
        assert!(error.contains("axis `data`") && error.contains("device 2"), "{error}");
        assert!(gather(&parts, &ty, &mesh, 0.01).is_ok());
    }

    #[test]
    fn wrong_values_are_refused() {
        let (tensor, mut ty, mesh) = example();
        let parts = shard(&tensor, &ty, &mesh).unwrap();
        assert!(gather(&parts[1..], &ty, &mesh, 0.0).unwrap_err().contains("3 parts"));
        ty.dims[1].dim.size = 5;
        assert!(shard(&tensor, &ty, &mesh).unwrap_err().contains("b=5"));
        assert!(gather(&parts, &ty, &mesh, 0.0).unwrap_err().contains("device 0"));
    }
}
