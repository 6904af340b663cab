//! The remedy for each broken rule, in the order of the specification.

/// A rule.
pub struct Rule {
    /// The label.
    pub label: &'static str,
    /// The filetest that breaks it.
    pub filetest: &'static str,
    /// The remedy, in one sentence.
    pub way_out: &'static str,
}

macro_rules! rule {
    ($folder:literal, $label:literal, $way_out:literal) => {
        Rule {
            label: $label,
            filetest: include_str!(concat!("../../../tests/filetests/", $folder, "/", $label, ".mesh")),
            way_out: $way_out,
        }
    };
}

/// All rules.
pub const RULES: [Rule; 81] = [
    rule!(
        "infer",
        "type_t1",
        "Rename one of the two dims before they meet, for example with `x.rename(\"a\", \"a2\")`."
    ),
    rule!(
        "infer",
        "type_t2",
        "Give the dim at least one element; a setting of 0 layers or 0 heads usually causes this."
    ),
    rule!("infer", "type_t3", "Name an axis of `--mesh`, or add the axis to the mesh."),
    rule!(
        "infer",
        "type_t4",
        "Choose a size that the number of shards divides, or split the dim over fewer devices."
    ),
    rule!("infer", "type_t5", "Split each dim over its own axis, or leave one of the two unsplit."),
    rule!(
        "infer",
        "type_t6",
        "Split the computation into smaller tensors; a product of sizes is usually wrong."
    ),
    rule!("infer", "type_t7", "Cast to a number before summing, and compare afterwards."),
    rule!("infer", "type_t8", "Give the dim a short name in words, such as `d_model`."),
    rule!("infer", "op_o1", "Give the operation as many operands as `docs/ir.md` lists."),
    rule!("infer", "op_o2", "Name a dim that the tensor has; the message lists similar names."),
    rule!("infer", "op_o3", "Choose a new name for the added dim, or rename the existing one first."),
    rule!("infer", "op_o4", "Leave the dim unsplit in the layout, or gather it before the operation."),
    rule!(
        "infer",
        "op_o5",
        "Reduce the pending sum with an all-reduce or a reduce-scatter before the operation."
    ),
    rule!("infer", "op_o6", "All-reduce the pending max or min first."),
    rule!("infer", "op_o7", "Cast the operand to one of the element types that the operation takes."),
    rule!("infer", "op_o8", "Give a tensor without dims: select one element, or reduce the dims."),
    rule!("infer", "op_o9", "Make both sizes equal, or rename one of the dims if they are different dims."),
    rule!("infer", "op_o10", "Bring both operands to the same split, or replicate one of them."),
    rule!("infer", "elementwise_e1", "Cast one of the two: there are no implicit conversions."),
    rule!("infer", "elementwise_e2", "Reduce one of the two pending sums before the product."),
    rule!(
        "infer",
        "elementwise_e3",
        "Reduce the pending sum first, or convert the other term with `as_pending`."
    ),
    rule!("infer", "elementwise_e4", "Broadcast or reduce one of the two operands."),
    rule!("infer", "contract_c1", "Cast one of the two operands: there are no implicit conversions."),
    rule!(
        "infer",
        "contract_c2",
        "Give the result a float type if the operands are floats, else their type, and cast the result."
    ),
    rule!("infer", "contract_c3", "Name only dims of the operands in the result, or broadcast afterwards."),
    rule!(
        "infer",
        "contract_c4",
        "Replicate the other operand along the axis, or reduce the pending sum first."
    ),
    rule!("infer", "contract_c5", "Split the summed dim in the same way in both operands, or gather it."),
    rule!("infer", "reduce_r1", "Name each dim once."),
    rule!("infer", "shape_s1", "Write a whole number in the range of the element type, or use a float type."),
    rule!("infer", "shape_s2", "Use a number type, and compare to get truth values."),
    rule!("infer", "shape_s3", "Choose start and limit inside the dim, and a stride of at least 1."),
    rule!("infer", "shape_s4", "Pad or shift with 0, or reduce the pending sum first."),
    rule!("infer", "shape_s5", "Name each old and each new dim once."),
    rule!("infer", "shape_s6", "Name each old dim once."),
    rule!("infer", "shape_s7", "Choose sizes whose product is the number of elements."),
    rule!("infer", "shape_s8", "Gather the split dim before the reshape, or put the split dim first."),
    rule!("infer", "shape_s9", "Make all dims but the concatenated one, and the element types, equal."),
    rule!("infer", "shape_s10", "Shift by at most the size of the dim."),
    rule!("infer", "index_i1", "Choose a k of at most the size of the dim."),
    rule!("infer", "index_i2", "Broadcast the payload, or the key, to the same dims."),
    rule!("infer", "index_i3", "Choose a length of at most the size of the dim."),
    rule!("infer", "index_i4", "Give an update with the element type and the other dims of the tensor."),
    rule!("infer", "index_i5", "Name each removed dim once."),
    rule!("infer", "index_i6", "Give both index tensors the batch dims of the tensor, under the same names."),
    rule!(
        "infer",
        "index_i7",
        "Give updates with the element type of the tensor and its dims, but for the indexed one."
    ),
    rule!(
        "infer",
        "random_n1",
        "Pass `u32` values without dims, replicated on all devices; cast the step number to `u32`."
    ),
    rule!(
        "infer",
        "random_n2",
        "Use `u32` for bits, `pred` for bernoulli, and a float for the other distributions."
    ),
    rule!(
        "infer",
        "random_n3",
        "Choose a probability from 0 to 1; a dropout rate is 1 minus the probability of keeping."
    ),
    rule!("infer", "state_a1", "Write a value of the declared type: cast it, or correct the declaration."),
    rule!("infer", "state_a2", "Declare the state before the function, or correct the name."),
    rule!(
        "infer",
        "control_k1",
        "Give both branches results of the same types: cast, broadcast or pad in one of them."
    ),
    rule!("infer", "control_k2", "Reduce the loss to one float, for example with `mean_all`."),
    rule!(
        "infer",
        "control_k3",
        "Differentiate with respect to floats only, and leave counters and tokens out."
    ),
    rule!(
        "infer",
        "control_k4",
        "Give every sliced tensor the dim of the scan, with its size, and not split."
    ),
    rule!("infer", "control_k5", "Return the new carries first, in their order and types."),
    rule!("infer", "control_k6", "Give the body one parameter for each argument, in their types."),
    rule!(
        "infer",
        "collective_l1",
        "Reduce over axes over which the value is pending, and with the same kind of reduction."
    ),
    rule!("infer", "collective_l2", "Take the last axes of the dim, in order."),
    rule!("infer", "collective_l3", "Name at least one axis."),
    rule!(
        "infer",
        "collective_l4",
        "Name all axes of the dim, in order, and move by at most the number of shards."
    ),
    rule!(
        "verify",
        "verify_v1",
        "Define the value earlier in the same body, or pass it to the body as an argument."
    ),
    rule!("verify", "verify_v2", "Give each value its own name."),
    rule!(
        "verify",
        "verify_v3",
        "Record the type that the message names; a program that the compiler printed has this error only after an edit."
    ),
    rule!("verify", "verify_v4", "Remove the collective: the partitioner adds collectives, from the layout."),
    rule!("verify", "verify_v5", "Remove the mesh from the program, and name it with `--mesh`."),
    rule!("verify", "verify_v6", "Give the program from before partitioning, or differentiate in the model."),
    rule!("verify", "verify_v7", "Rename one of the functions."),
    rule!("verify", "verify_v8", "Rename one of the inputs, and name every parameter."),
    rule!("verify", "verify_v9", "Rename one of the outputs, and name every result."),
    rule!(
        "verify",
        "verify_v10",
        "Reduce the value before it is returned, and give complete values to functions."
    ),
    rule!("verify", "verify_v11", "Store the reduced value."),
    rule!("verify", "verify_v12", "Combine both values into one write."),
    rule!(
        "verify",
        "verify_v13",
        "Read the state before the loop, pass it as an operand, and write the result after the loop."
    ),
    rule!(
        "verify",
        "verify_v14",
        "Rename one of the states; a layer that is created twice needs its own scope."
    ),
    rule!("verify", "verify_v15", "State each meta key once."),
    rule!(
        "verify",
        "verify_v16",
        "Use fewer nested loops: one scan over a longer dim, or separate functions."
    ),
    rule!(
        "verify",
        "verify_v17",
        "Give it a short name in words; text with ends of lines belongs in the value of a meta entry."
    ),
    rule!(
        "partition",
        "layout_y1",
        "Name a dim of the program in `--layout`; the message lists similar names."
    ),
    rule!("partition", "layout_y2", "Split another dim: the layers of a loop stay together on a device."),
    rule!(
        "partition",
        "layout_y3",
        "Choose a size that the number of devices along the axis divides, or split over fewer devices."
    ),
    rule!(
        "partition",
        "layout_y4",
        "Split the two dims over different axes, or leave one of them out of the layout."
    ),
];
