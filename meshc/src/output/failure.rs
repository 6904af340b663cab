//! Errors on standard error.

use super::stream::errln;
use driver::diagnostics::Mistakes;
use std::io::{IsTerminal, stderr};

/// Prints an error to standard error.
pub fn say(error: &anyhow::Error) {
    if let Some(mistakes) = error.downcast_ref::<Mistakes>() {
        let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        errln!("{}", mistakes.text(colour));
        return;
    }
    // A cause follows its consequence, so that the help of the innermost cause comes last.
    let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    let mut said = String::new();
    for (i, cause) in chain.iter().enumerate() {
        // Many errors already include the text of their source.
        if i > 0 && said.contains(cause.as_str()) {
            continue;
        }
        if i > 0 {
            said.push_str(": ");
        }
        said.push_str(cause);
    }
    errln!("error: {said}");
}
