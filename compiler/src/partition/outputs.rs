//! Replication of outputs: every device returns whole outputs, so that any host can read them.

use mesh::{
    Inst, Module, Op, Site,
    ir::{Collective, ValueData},
};

/// Gathers the split dims of all outputs of a Local module. State is not an output: it stays split. Returns
/// true if any output was split.
pub fn replicate(module: &mut Module) -> bool {
    let mut changed = false;
    for body in module.functions.iter_mut().map(|f| &mut f.body) {
        for i in 0..body.results.len() {
            let mut value = body.results[i];
            while let Some(split) = body.ty(value).dims.iter().position(|dim| !dim.axes.is_empty()) {
                let mut ty = body.ty(value).clone();
                let axes = std::mem::take(&mut ty.dims[split].axes);
                let dim = ty.dims[split].dim.name.clone();
                let site = body.insts.iter().find(|inst| inst.results.contains(&value));
                let site = site.map_or_else(Site::default, |inst| inst.site.clone());
                let whole = body.values.push(ValueData { ty, name: None });
                let op = Op::Collective(Collective::AllGather { dim, axes });
                body.insts.push(Inst { op, args: vec![value], results: vec![whole], site });
                value = whole;
                changed = true;
            }
            body.results[i] = value;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::replicate;
    use mesh::{text, verify::Local};

    #[test]
    fn split_outputs_are_gathered_and_others_stay() {
        let program = "
module example
mesh data=2, model=2
func forward(%x x: f32[batch=8@data, d=4@model]) -> (y: f32[batch=8@data, d=4@model], s: f32[]) {
  %s = constant {dtype=f32, value=1}
  return %x, %s
}
";
        let mut module = text::parse(program, "example.mesh").unwrap();
        assert!(replicate(&mut module));
        let local = Local::new(module).unwrap();
        let body = &local.module().functions[0].body;
        let types: Vec<String> =
            body.result_types().map(|ty| ty.display(&local.module().env.mesh).to_string()).collect();
        assert_eq!(types, ["f32[batch=8, d=4]", "f32[]"]);
        assert_eq!(body.insts.len(), 3);
        assert!(!replicate(&mut local.into_module()));
    }
}
