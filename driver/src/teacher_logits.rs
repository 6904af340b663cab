//! The largest logits of a teacher, written to a file for distillation without the teacher.

use crate::{failure::failure, source::Source};
use anyhow::Result;
use data::{BatchSpec, TeacherRows, TeacherWriter, teacher::TeacherFacts};
use runtime::{Checkpoint, Contract, Session, generate::Teacher};
use std::path::Path;

/// Writes the `top` largest logits of each target token of all held-out rows of `source`, with the program of
/// `session`, whose parameters are those of `teacher`. Returns the facts of the file.
///
/// # Errors
/// `top` is out of range, a batch cannot be read, a call fails, or the file cannot be written.
pub fn write(
    session: &mut Session,
    source: &Source,
    top: usize,
    path: &Path,
    teacher: &Checkpoint,
) -> Result<TeacherFacts> {
    let spec = Contract::batch_spec(session.artefact())?;
    let BatchSpec { input_length, target_length, vocab, special_tokens, .. } = spec;
    let facts = TeacherFacts {
        rows: source.rows(usize::MAX)[0],
        top,
        input_length,
        target_length,
        vocab,
        pad: special_tokens.pad,
        eos: special_tokens.eos,
        tokenizer: source.tokenizer().identity().to_owned(),
        teacher: teacher.digest().to_owned(),
    };
    let mut model = Teacher::new(session, top)?;
    let mut writer = TeacherWriter::create(path, facts.clone(), source.tokenizer())?;
    model.run(&*source.batches(), &mut |input, target, top| {
        Ok(writer.push(input, target, &top.tokens, &top.logits)?)
    })?;
    writer.finish()?;
    Ok(facts)
}

/// Checks that rows have the tokenizer `wanted`, if it is known.
///
/// # Errors
/// They have another one.
pub fn check_tokenizer(rows: &TeacherRows, wanted: Option<&str>, path: &Path) -> Result<()> {
    let own = rows.tokenizer().identity();
    match wanted.filter(|wanted| *wanted != own) {
        None => Ok(()),
        Some(wanted) => Err(failure(
            format!("the tokenizer of the rows in `{}` is {own}, not {wanted}", path.display()),
            "a student needs the tokenizer of its teacher: write the logits of a teacher that has it",
        )),
    }
}
