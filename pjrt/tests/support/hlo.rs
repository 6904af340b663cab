//! Small HLO programs, encoded by hand, because this crate does not know the protobuf messages that plugins
//! take.

/// A protobuf message under construction.
#[derive(Clone, Default)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    pub fn message(self, field: u64, message: &Message) -> Self {
        self.bytes(field, &message.0)
    }

    pub fn int(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    pub fn ints(self, field: u64, values: &[i64]) -> Self {
        let packed = values.iter().fold(Message::new(), |mut packed, value| {
            packed.varint(*value as u64);
            packed
        });
        self.message(field, &packed)
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 128 {
            self.0.push(value as u8 | 128);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn encode(self) -> Vec<u8> {
        self.0
    }
}

/// Element types by their number in HLO.
pub const PRED: i64 = 1;
pub const S32: i64 = 4;
pub const F32: i64 = 11;
const TUPLE: i64 = 13;
pub const BF16: i64 = 16;

/// A row-major array.
pub fn array(element_type: i64, dims: &[i64]) -> Message {
    let minor_to_major: Vec<i64> = (0..dims.len() as i64).rev().collect();
    array_with_layout(element_type, dims, &minor_to_major)
}

/// An array with an explicit layout.
pub fn array_with_layout(element_type: i64, dims: &[i64], minor_to_major: &[i64]) -> Message {
    let layout = Message::new().ints(1, minor_to_major);
    Message::new().int(2, element_type).ints(3, dims).message(5, &layout)
}

/// The entry computation of a module under construction; ids are positions.
pub struct Program {
    name: &'static str,
    parameters: Vec<Message>,
    instructions: Vec<Message>,
    callee: Option<Message>,
}

/// An instruction.
#[derive(Clone, Copy)]
pub struct Id(i64);

/// Ids of the entry computation and of the computation that reductions call.
const ENTRY: i64 = 1;
const CALLEE: i64 = 2;

impl Program {
    pub fn new(name: &'static str) -> Self {
        Program { name, parameters: Vec::new(), instructions: Vec::new(), callee: None }
    }

    pub fn parameter(&mut self, shape: &Message) -> Id {
        let number = self.parameters.len() as i64;
        self.parameters.push(shape.clone());
        self.instruction("parameter", shape, &[], |message| message.int(9, number))
    }

    pub fn op(&mut self, opcode: &str, shape: &Message, operands: &[Id]) -> Id {
        self.instruction(opcode, shape, operands, |message| message)
    }

    /// The sum over all partitions.
    pub fn all_reduce(&mut self, shape: &Message, operand: Id) -> Id {
        let scalar = array(F32, &[]);
        let instruction = |id: i64, opcode: &str| {
            manual(Message::new().text(1, &format!("s{id}")).text(2, opcode).message(3, &scalar).int(35, id))
        };
        let signature = Message::new().message(1, &scalar).message(1, &scalar).message(2, &scalar);
        let sum = Message::new()
            .text(1, "sum")
            .message(2, &instruction(1001, "parameter").int(9, 0))
            .message(2, &instruction(1002, "parameter").int(9, 1))
            .message(2, &instruction(1003, "add").ints(36, &[1001, 1002]))
            .message(4, &signature.text(3, "a").text(3, "b"))
            .int(5, CALLEE)
            .int(6, 1003);
        self.callee = Some(sum);
        self.instruction("all-reduce", shape, &[operand], |message| message.int(26, 1).ints(38, &[CALLEE]))
    }

    /// A custom call of `target` through XLA's FFI, with the attribute `call`.
    pub fn custom_call(&mut self, target: &str, number: i64, shape: &Message, operands: &[Id]) -> Id {
        let attributes = format!("{{call = {number} : i64}}");
        self.instruction("custom-call", shape, operands, |message| {
            message.text(28, target).text(43, &attributes).int(77, 4)
        })
    }

    /// The transpose of a matrix.
    pub fn transpose(&mut self, shape: &Message, operand: Id) -> Id {
        self.instruction("transpose", shape, &[operand], |message| message.ints(14, &[1, 0]))
    }

    fn instruction(
        &mut self,
        opcode: &str,
        shape: &Message,
        operands: &[Id],
        more: impl FnOnce(Message) -> Message,
    ) -> Id {
        let id = self.instructions.len() as i64 + 1;
        let ids: Vec<i64> = operands.iter().map(|operand| operand.0).collect();
        let message = Message::new().text(1, &format!("i{id}")).text(2, opcode).message(3, shape).int(35, id);
        let message = more(message).ints(36, &ids);
        self.instructions.push(match opcode {
            // The sharding of a tuple lists those of its elements.
            "tuple" => message
                .message(40, &ids.iter().fold(Message::new().int(1, 2), |all, _| all.message(5, &by_hand()))),
            _ => manual(message),
        });
        Id(id)
    }

    /// Builds the module with these outputs, and with `aliases` of outputs and parameters.
    pub fn outputs(mut self, outputs: &[(Id, Message)], aliases: &[(i64, i64)]) -> Vec<u8> {
        let shape =
            outputs.iter().fold(Message::new().int(2, TUPLE), |shape, (_, own)| shape.message(4, own));
        let ids: Vec<Id> = outputs.iter().map(|(id, _)| *id).collect();
        let root = self.op("tuple", &shape, &ids);

        let mut signature = Message::new();
        for (number, parameter) in self.parameters.iter().enumerate() {
            signature = signature.message(1, parameter).text(3, &format!("p{number}"));
        }
        let signature = signature.message(2, &shape);
        let entry = self
            .instructions
            .iter()
            .fold(Message::new().text(1, "main"), |entry, instruction| entry.message(2, instruction))
            .message(4, &signature)
            .int(5, ENTRY)
            .int(6, root.0);
        let mut module = Message::new().text(1, self.name).text(2, "main");
        for computation in self.callee.iter().chain([&entry]) {
            module = module.message(3, computation);
        }
        let alias = aliases.iter().fold(Message::new(), |all, (output, parameter)| {
            // Kind 1: may alias.
            all.message(1, &Message::new().ints(1, &[*output]).int(2, *parameter).int(4, 1))
        });
        module.message(4, &signature).int(5, 1).int(6, ENTRY).message(8, &alias).encode()
    }
}

/// Marks an instruction as manually sharded.
fn manual(instruction: Message) -> Message {
    instruction.message(40, &by_hand())
}

fn by_hand() -> Message {
    Message::new().int(1, 4)
}

/// Returns a serialized `CompileOptionsProto` for one program on `partitions` partitions.
pub fn compile_options(partitions: i64) -> Vec<u8> {
    let build = Message::new()
        .int(1, -1)
        .int(4, 1)
        .int(5, partitions)
        .int(6, i64::from(partitions > 1))
        .bytes(12, &[0])
        .bytes(18, &[0])
        .int(23, 1);
    Message::new().message(3, &build).encode()
}

/// Returns a serialized `CompileOptionsProto` for one program on `replicas` replicas.
pub fn replica_options(replicas: i64) -> Vec<u8> {
    let build =
        Message::new().int(1, -1).int(4, replicas).int(5, 1).bytes(12, &[0]).bytes(18, &[0]).int(23, 1);
    Message::new().message(3, &build).encode()
}

/// `x + y`.
pub fn add(name: &'static str, element_type: i64, dims: &[i64]) -> Vec<u8> {
    let shape = array(element_type, dims);
    let mut program = Program::new(name);
    let (x, y) = (program.parameter(&shape), program.parameter(&shape));
    let sum = program.op("add", &shape, &[x, y]);
    program.outputs(&[(sum, shape)], &[])
}

/// Returns `x + y` in the buffer of `x`, and `x * y`.
pub fn add_in_place(dims: &[i64]) -> Vec<u8> {
    let shape = array(F32, dims);
    let mut program = Program::new("add_in_place");
    let (x, y) = (program.parameter(&shape), program.parameter(&shape));
    let product = program.op("multiply", &shape, &[x, y]);
    let sum = program.op("add", &shape, &[x, y]);
    program.outputs(&[(sum, shape.clone()), (product, shape)], &[(0, 0)])
}

/// The sum of `x` over all partitions.
pub fn sum_over_partitions(dims: &[i64]) -> Vec<u8> {
    let shape = array(F32, dims);
    let mut program = Program::new("sum_over_partitions");
    let x = program.parameter(&shape);
    let sum = program.all_reduce(&shape, x);
    program.outputs(&[(sum, shape)], &[])
}
