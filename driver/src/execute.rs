//! Runs of model programs.

use crate::{
    diagnostics::{Mistake, Mistakes, Severity, Sources},
    failure::failure,
    package::Built,
};
use anyhow::Result;
use std::process::{Command, Output, Stdio};

/// Runs the model with `args` and returns its output, or its mistakes as an error. Other messages of the
/// model are passed to `say`.
pub fn run(built: &Built, name: &str, args: &[String], sources: &Sources, say: fn(&str)) -> Result<String> {
    let output = Command::new(&built.executable).args(args).stdin(Stdio::null()).output().map_err(|e| {
        failure(
            format!("model `{name}` was built, but could not be started: {e}"),
            format!("see that programs may run in `{}`", built.executable.display()),
        )
    })?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let (mistakes, other): (Vec<_>, Vec<_>) =
        said.lines().partition(|line| Mistake::from_json(line).is_some());
    if output.status.success() {
        // Messages of the model for the user.
        other.iter().for_each(|line| say(line));
        return String::from_utf8(output.stdout).map_err(|_| {
            failure(
                format!("the output of model `{name}` is not a program: it is not text"),
                "a model program prints its program and nothing else: end `main` with `models::main(…)`",
            )
        });
    }
    let mistakes: Vec<Mistake> = mistakes.into_iter().filter_map(Mistake::from_json).collect();
    if mistakes.is_empty() {
        return Err(failed(name, &output, &other, say));
    }
    other.iter().for_each(|line| say(line));
    let severity = Severity::Error;
    Err(Mistakes { severity, subject: name.to_owned(), mistakes, sources: sources.clone() }.into())
}

/// Returns the error for a model that failed without reporting mistakes.
fn failed(name: &str, output: &Output, said: &[&str], say: fn(&str)) -> anyhow::Error {
    let panicked = said.iter().position(|line| line.starts_with("thread ") && line.contains(" panicked at "));
    let Some(at) = panicked else {
        let said: String = said.iter().map(|line| format!("\n  {line}")).collect();
        return failure(
            format!("model `{name}` failed ({}){said}", output.status),
            "a model program reports its mistakes through `mesh::dsl::main`; its own output is above",
        );
    };
    said[..at].iter().for_each(|line| say(line));
    let place = said[at].split_once(" panicked at ").map_or("", |(_, place)| place.trim_end_matches(':'));
    let (text, backtrace) = match said.iter().position(|line| *line == "stack backtrace:") {
        Some(start) if start > at => (&said[at + 1..start], &said[start..]),
        Some(_) | None => (&said[at + 1..], &[][..]),
    };
    backtrace.iter().for_each(|line| say(line));
    let text: Vec<&str> = text.iter().take_while(|line| !line.starts_with("note: ")).copied().collect();
    failure(
        format!("model `{name}` panicked at {place}: {}", text.join("\n  ").trim_end()),
        "correct the model; set RUST_BACKTRACE=1 for a backtrace",
    )
}
