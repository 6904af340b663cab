//! The compiler driver: from a model to a program, an artefact, an executable or a session.
//!
//! Absent on purpose: the command line, and printing. The input is a [`Request`], messages go to its
//! [`Host`](host::Host), and everything else is returned.
//!
//! Reading order: [`request`] (the input, with [`settings`], [`placement`], [`target`], [`plugin`],
//! [`subject`] and [`host`]), [`program`] (from a model to a program, with `builtin`, `sources`, `package`,
//! `execute` and `store`), [`lower`] (through the compiler), [`artefact`] (in memory), [`device`] (plugins
//! and sessions), [`session`] (programs with parameters), [`source`] (batches), [`predict`] (predictions for
//! tasks), [`task_metrics`] (the same during training), [`teacher_logits`] (for distillation), [`ahead`] and
//! [`measured`] (through a plugin's compiler), [`fit`] (programs that are too large), [`lint`] (warnings),
//! [`summary`] (facts of a valid program), [`overview`] (programs, data and runs in labelled lines),
//! [`run_folder`] (the files of a run), [`verification`] (imported models), [`selftest`] (devices against the
//! interpreter). Errors are in [`failure`] and [`diagnostics`], and [`explain`] explains their labels; atomic
//! writes are in [`files`]. [`evaluation`] shows results by text, [`comparison`] the speed-up of runs,
//! [`routes`] observes routing, [`tokenizer`] opens that of a model, [`call`] calls one function,
//! [`interpreter`] runs programs without a plugin, [`inputs`] reads the inputs of generation, [`children`]
//! ends processes such as cargo, [`profile`] records where time goes, [`doctor`] examines plugins,
//! [`scaffold`] writes new packages, [`watch`] sees changes of a model, [`planned`] places a model on a slice
//! by itself, and [`hosts`] is for sessions of several processes. `padding` drops what one device does not
//! need.

pub mod ahead;
pub mod artefact;
mod builtin;
pub mod call;
pub mod children;
pub mod comparison;
pub mod device;
pub mod diagnostics;
pub mod doctor;
pub mod evaluation;
mod execute;
pub mod explain;
pub mod failure;
pub mod files;
pub mod fit;
pub mod host;
pub mod hosts;
pub mod inputs;
pub mod interpreter;
pub mod lint;
pub mod lower;
pub mod measured;
pub mod overview;
mod package;
mod padding;
mod parts;
pub mod placement;
pub mod planned;
pub mod plugin;
pub mod predict;
pub mod profile;
pub mod program;
pub mod request;
pub mod routes;
pub mod run_folder;
pub mod scaffold;
pub mod selftest;
pub mod session;
pub mod settings;
pub mod source;
mod sources;
mod store;
pub mod subject;
pub mod summary;
pub mod target;
pub mod task_metrics;
pub mod teacher_logits;
pub mod tokenizer;
pub mod verification;
pub mod watch;

pub use request::Request;
