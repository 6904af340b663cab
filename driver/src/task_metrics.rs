//! Metrics of tasks during training, by generation with the parameters of the run.

use crate::{
    failure::failure,
    files::{self, cache, write_file},
    predict::{self, GENERATE, Wanted},
    program,
    request::Request,
    session,
    settings::key,
};
use anyhow::{Result, anyhow};
use data::{Codec, Tokenizer};
use mesh::task::check::Purpose;
use runtime::{
    Artefact, Error, ExecutableCache, Session,
    generate::{Generator, Sizes},
    train::Evaluator,
};
use std::{cell::RefCell, collections::BTreeMap, fmt, path::PathBuf};
use tasks::evaluation::by_name;

/// Generates the targets of tasks at every evaluation of a run.
///
/// The program that generates has a separate session on the client of the run, to which the parameters are
/// copied.
pub struct TaskMetrics {
    artefact: Artefact,
    wanted: Vec<Wanted>,
    tokenizer: Tokenizer,
    /// The folder of the predictions, one file per evaluation. `None` means that they are not kept.
    folder: Option<PathBuf>,
    session: RefCell<Option<Session>>,
    use_cache: bool,
}

impl TaskMetrics {
    /// Builds the program that generates, from the model of a run.
    ///
    /// # Errors
    /// The subject of the request is no model, or its model cannot generate.
    pub fn new(
        request: &Request,
        wanted: Vec<Wanted>,
        tokenizer: Tokenizer,
        folder: Option<PathBuf>,
    ) -> Result<Self> {
        if files::is_artefact(&request.subject) {
            return Err(failure(
                format!(
                    "`--eval-metrics`: `{}` is an artefact, which only trains",
                    request.subject.display()
                ),
                "name the model, which is then also compiled for generation",
            ));
        }
        let mut completed = request.completed(&predict::settings(request, &wanted));
        // A program that generates has no teacher.
        completed.settings.settings.retain(|setting| !models::distill::is_setting(key(setting)));
        let program = program::load(&completed)?;
        let artefact = session::with_functions(program, &completed, Purpose::Generate, &GENERATE)?;
        let use_cache = !request.plugin.no_executable_cache;
        Ok(Self { artefact, wanted, tokenizer, folder, session: RefCell::default(), use_cache })
    }

    fn values(&self, trained: &Session, step: u64) -> Result<BTreeMap<String, f64>> {
        let mut slot = self.session.borrow_mut();
        let session = match &mut *slot {
            Some(session) => session,
            None => {
                let client = trained.client().ok_or_else(|| anyhow!("the interpreter only trains"))?;
                let mut new = Session::with_client(client.clone(), self.artefact.clone())?;
                if self.use_cache {
                    new.set_executable_cache(ExecutableCache::in_cache(&cache()?));
                }
                slot.insert(new)
            }
        };
        session.copy_parameters(trained)?;
        let codec = |Sizes { vocab, special_tokens, .. }| {
            Ok(Codec::new(vocab, self.tokenizer.clone(), special_tokens)?)
        };
        let all = predict::generate(&mut Generator::new(session)?, &self.wanted, &codec)?;
        if let Some(folder) = &self.folder {
            std::fs::create_dir_all(folder)?;
            let lines: String = all.iter().map(|of| of.lines()).collect();
            write_file(&folder.join(format!("step_{step:08}.jsonl")), lines.as_bytes())?;
        }
        Ok(by_name(&all))
    }
}

impl Evaluator for TaskMetrics {
    fn evaluate(&self, trained: &Session, step: u64) -> runtime::Result<BTreeMap<String, f64>> {
        self.values(trained, step).map_err(|error| {
            Error::input(
                format!("evaluating the tasks: {error:#}"),
                "evaluate a checkpoint with meshc eval --tasks",
            )
        })
    }
}

impl fmt::Debug for TaskMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.wanted.iter().map(|(spec, _)| spec.name.as_str()).collect();
        f.debug_struct("TaskMetrics").field("tasks", &names).finish()
    }
}
