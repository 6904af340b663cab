//! Names of outputs that every command treats alike: prints and assertions of the language
//! (`mesh::task::PRINT`, `mesh::task::ASSERT_FINITE`).

/// The beginning of the names of outputs that are shown to the person who runs the program.
pub const PRINT: &str = "print/";
/// The beginning of the names of outputs that stop the program unless all their numbers are 0. The dim
/// [`NAN_INF`] has the numbers of NaN and of infinite elements of a value; the other dims are those of scans.
pub const ASSERT_FINITE: &str = "assert_finite/";
/// The dim of the two numbers of an assertion.
pub const NAN_INF: &str = "nan_inf";
