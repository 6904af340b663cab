//! Checks of selective precision in a module: all-to-alls exchange bf16, and routers compute in float32
//! (section 2.4 of the Switch Transformers paper).
//!
//! The check reads the module for the plugin, forward and backward, including loop bodies. It finds routers
//! by the scope in the metadata of instructions: a path component called `router`.

use crate::hlo_check::Problem;
use crate::xla::{HloInstructionProto, HloModuleProto, PrimitiveType, ShapeProto};

/// The scope of a router's instructions.
const ROUTER: &str = "router";

/// The operations of a softmax, and the product before it.
const SOFTMAX: [&str; 3] = ["exponential", "divide", "dot"];

/// Returns the element types of all-to-alls, each with its place `computation/instruction`.
pub fn exchanged(module: &HloModuleProto) -> Vec<(String, PrimitiveType)> {
    let mut found = Vec::new();
    for (place, instruction) in instructions(module) {
        // The prefix includes the asynchronous form.
        if instruction.opcode == "all-to-all" || instruction.opcode == "all-to-all-start" {
            let mut types = Vec::new();
            instruction.shape.iter().for_each(|shape| element_types(shape, &mut types));
            found.extend(types.into_iter().map(|ty| (place.clone(), ty)));
        }
    }
    found
}

/// Returns the float types of exponentials, divisions and products in the scope of a router, each with its
/// place.
pub fn of_routers(module: &HloModuleProto) -> Vec<(String, PrimitiveType)> {
    let mut found = Vec::new();
    for (place, instruction) in instructions(module) {
        let scope = instruction.metadata.as_ref().map_or("", |m| &m.op_name);
        if SOFTMAX.contains(&instruction.opcode.as_str()) && scope.split('/').any(|part| part == ROUTER) {
            let mut types = Vec::new();
            instruction.shape.iter().for_each(|shape| element_types(shape, &mut types));
            found.extend(types.into_iter().filter(is_float).map(|ty| (place.clone(), ty)));
        }
    }
    found
}

fn is_float(ty: &PrimitiveType) -> bool {
    matches!(ty, PrimitiveType::Bf16 | PrimitiveType::F16 | PrimitiveType::F32 | PrimitiveType::F64)
}

/// Returns all violations of selective precision in a module.
pub fn selective(module: &HloModuleProto) -> Vec<Problem> {
    let wide = |ty: PrimitiveType| matches!(ty, PrimitiveType::F32 | PrimitiveType::F64);
    let crossing = exchanged(module).into_iter().filter(|(_, ty)| wide(*ty)).map(|(place, ty)| Problem {
        place,
        what: format!("{} crosses an all-to-all", ty.as_str_name().to_lowercase()),
    });
    let narrow = of_routers(module).into_iter().filter(|(_, ty)| !wide(*ty)).map(|(place, ty)| Problem {
        place,
        what: format!("a router computes in {}", ty.as_str_name().to_lowercase()),
    });
    crossing.chain(narrow).collect()
}

fn instructions(module: &HloModuleProto) -> impl Iterator<Item = (String, &HloInstructionProto)> {
    module.computations.iter().flat_map(|computation| {
        let place = move |i: &HloInstructionProto| format!("{}/{}", computation.name, i.name);
        computation.instructions.iter().map(move |i| (place(i), i))
    })
}

fn element_types(shape: &ShapeProto, found: &mut Vec<PrimitiveType>) {
    if shape.element_type() == PrimitiveType::Tuple {
        shape.tuple_shapes.iter().for_each(|part| element_types(part, found));
    } else {
        found.push(shape.element_type());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xla::{HloComputationProto, OpMetadata};

    fn instruction(opcode: &str, scope: &str, ty: PrimitiveType) -> HloInstructionProto {
        HloInstructionProto {
            name: format!("{opcode}.1"),
            opcode: opcode.into(),
            shape: Some(ShapeProto { element_type: ty as i32, ..ShapeProto::default() }),
            metadata: Some(OpMetadata { op_name: scope.into(), ..OpMetadata::default() }),
            ..HloInstructionProto::default()
        }
    }

    fn problems(instructions: Vec<HloInstructionProto>) -> Vec<String> {
        let body =
            HloComputationProto { name: "body".into(), instructions, ..HloComputationProto::default() };
        let module = HloModuleProto { computations: vec![body], ..HloModuleProto::default() };
        selective(&module).iter().map(|p| p.to_string()).collect()
    }

    #[test]
    fn wide_exchanges_and_narrow_routers_are_found() {
        use PrimitiveType::{Bf16, F32, S32};
        let good = vec![
            instruction("all-to-all", "encoder/ffn/collective", Bf16),
            instruction("all-to-all", "encoder/ffn/collective", S32),
            instruction("all-gather", "encoder/ffn/collective", F32),
            instruction("exponential", "encoder/ffn/router/elementwise", F32),
            instruction("exponential", "encoder/attention/elementwise", Bf16),
        ];
        assert_eq!(problems(good), [""; 0]);
        assert_eq!(
            problems(vec![instruction("all-to-all", "", F32)]),
            ["body/all-to-all.1: f32 crosses an all-to-all"]
        );
        assert_eq!(
            problems(vec![
                instruction("exponential", "encoder/ffn/router/elementwise", Bf16),
                instruction("dot", "encoder/ffn/router/einsum", Bf16),
            ]),
            ["body/exponential.1: a router computes in bf16", "body/dot.1: a router computes in bf16"]
        );
    }

    #[test]
    fn exchanges_of_several_tensors_count_each() {
        let part = |ty: PrimitiveType| ShapeProto { element_type: ty as i32, ..ShapeProto::default() };
        let mut tuple = instruction("all-to-all", "", PrimitiveType::Tuple);
        tuple.shape.as_mut().expect("it has one").tuple_shapes =
            vec![part(PrimitiveType::Bf16), part(PrimitiveType::F32)];
        assert_eq!(problems(vec![tuple]), ["body/all-to-all.1: f32 crosses an all-to-all"]);
    }
}
