//! Programs to compile.

use crate::array_type::ArrayType;
use crate::ffi::{Padded, structs};
use crate::signature;

/// A program to compile.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// The program's bytes.
    pub code: &'a [u8],
    /// The format of the bytes: `hlo`, `hlo_with_config` or `mlir`.
    pub format: &'a str,
}

impl<'a> Program<'a> {
    /// Creates a program from a serialized `HloModuleProto`.
    pub fn hlo(code: &'a [u8]) -> Self {
        Program { code, format: "hlo" }
    }

    /// Returns the types of the parameters. `None` if they cannot be read from this format.
    pub fn parameters(&self) -> Option<Vec<ArrayType>> {
        if self.format == "hlo" { signature::parameters(self.code) } else { None }
    }

    pub(crate) fn to_ffi(self) -> ProgramArgs {
        ProgramArgs(Padded::<structs::Program>::new(|args| {
            // The plugin only reads the program.
            args.code = self.code.as_ptr().cast_mut().cast();
            args.code_size = self.code.len();
            args.format = self.format.as_ptr().cast();
            args.format_size = self.format.len();
        }))
    }
}

/// A [`Program`] as the C API takes it. Points into the program.
pub(crate) struct ProgramArgs(Padded<structs::Program>);

impl ProgramArgs {
    pub fn as_program(&self) -> *const structs::Program {
        std::ptr::from_ref(&self.0).cast()
    }
}
