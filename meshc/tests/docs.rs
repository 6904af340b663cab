//! Runs the commands and model files of the documentation, and compares its excerpts with what they produce.
//!
//! Blocks of a page run in order in one temporary folder, which sees the repository's `models`, `docs`,
//! `mesh` and `compiler`. HTML comments before a block control it:
//!
//! - `<!-- file: NAME -->`: the block is written to NAME.
//! - `<!-- excerpt: FILE -->`: the lines of the block occur in FILE in this order. `…` stands for omitted
//!   lines, and inside of a line for any text.
//! - `<!-- setup: COMMAND -->`: a command that runs before the block.
//! - `<!-- run: skip: REASON -->`: the block does not run.
//! - `<!-- run: slow -->`: the block runs only with `MESH_SLOW=1`.
//! - `<!-- run: needs VARIABLE -->`: the block runs only if the environment variable is set.
//! - `<!-- run: add OPTIONS -->`: the options are appended to each command.
//! - `<!-- run: replace A => B -->`: B replaces A in the commands.

use crate::support::{Workplace, cpu_plugin, home, say_skipped};
use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

/// A fenced block with the directives before it.
#[derive(Debug, PartialEq)]
struct Block {
    line: usize,
    language: String,
    text: String,
    directives: Vec<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut directives = Vec::new();
    let mut lines = (1..).zip(page.lines());
    while let Some((line, content)) = lines.next() {
        let content = content.trim();
        if let Some(comment) = content.strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->")) {
            directives.push(comment.trim().to_owned());
        } else if let Some(language) = content.strip_prefix("```") {
            let inside =
                lines.by_ref().map(|(_, content)| content).take_while(|c| !c.trim().starts_with("```"));
            let text = inside.map(|content| format!("{content}\n")).collect();
            let directives = std::mem::take(&mut directives);
            blocks.push(Block { line, language: language.to_owned(), text, directives });
        }
    }
    blocks
}

impl Block {
    /// Returns the values of the directives that begin with `key`.
    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.directives.iter().filter_map(move |d| d.strip_prefix(key)).map(str::trim)
    }

    fn is_shell(&self) -> bool {
        matches!(self.language.as_str(), "sh" | "console")
    }

    /// Returns the reason why the block does not run here, if there is one.
    fn skipped(&self) -> Option<String> {
        if let Some(reason) = self.all("run: skip:").next() {
            return Some(reason.to_owned());
        }
        if self.all("run: slow").next().is_some() && env::var_os("MESH_SLOW").is_none_or(|v| v != "1") {
            return Some("it is slow: MESH_SLOW=1 runs it".to_owned());
        }
        let missing = self.all("run: needs").find(|name| env::var_os(name).is_none());
        missing.map(|name| format!("{name} is not set"))
    }

    /// Returns the commands of a shell block, with continued lines joined.
    fn commands(&self) -> Vec<String> {
        let joined = self.text.replace("\\\n", " ");
        let lines = joined.lines().filter_map(|line| match self.language.as_str() {
            "console" => line.strip_prefix("$ "),
            _ => Some(line),
        });
        let commands = lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        commands.map(|command| self.rewritten(command)).collect()
    }

    fn rewritten(&self, command: &str) -> String {
        let mut command = command.replace("cargo run --release -p meshc --", "meshc");
        for replacement in self.all("run: replace") {
            let (old, new) = replacement.split_once("=>").expect("`run: replace A => B`");
            command = command.replace(old.trim(), new.trim());
        }
        let (command, comment) = command.split_once(" #").unwrap_or((&command, ""));
        let added: Vec<&str> = self.all("run: add").collect();
        format!("{} {} # {comment}", command.trim(), added.join(" "))
    }
}

/// A temporary folder with a part of the repository.
fn workplace() -> Workplace {
    let place = Workplace::new();
    for name in ["README.md", "models", "docs", "mesh", "compiler", "bench"] {
        symlink(home().join(name), place.at(name)).expect("links can be made");
    }
    place
}

/// Runs a command in a shell that finds the built `meshc`; returns its output.
#[track_caller]
fn shell(place: &Workplace, page: &str, line: usize, command: &str) -> String {
    let like = place.meshc(&[]);
    let meshc = Path::new(like.get_program()).parent().expect("the binary is in a folder").to_owned();
    let path = env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("sh");
    shell.args(["-euc", command]).current_dir(place.path());
    for (name, value) in like.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("PATH", format!("{}:{path}", meshc.display()));
    match env::var_os("MESH_TPU_PLUGIN") {
        Some(libtpu) => shell.env("TPU_LIBRARY_PATH", libtpu),
        None => shell.env("MESH_PJRT_PLUGIN", cpu_plugin()),
    };
    let output = shell.stdin(Stdio::null()).output().expect("there is a shell");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{page}:{line}: `{command}` fails:\n{out}{err}");
    format!("{out}{err}")
}

/// Asserts that the lines of `excerpt` occur in `text` in this order. `…` stands for omitted lines, and
/// inside of a line for any text.
#[track_caller]
fn occurs(excerpt: &str, text: &str, what: &str) {
    let mut lines = text.lines();
    for wanted in excerpt.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "…") {
        let found = lines.any(|line| matches(line.trim(), wanted));
        assert!(found, "{what}: this line is missing, or not in this order:\n{wanted}");
    }
}

/// True if `line` is `pattern`, in which `…` stands for any text.
fn matches(line: &str, pattern: &str) -> bool {
    let Some((before, after)) = pattern.split_once('…') else { return line == pattern };
    let Some(rest) = line.strip_prefix(before) else { return false };
    rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| matches(&rest[at..], after))
}

/// Runs all blocks of a page.
#[track_caller]
fn check(page: &str) {
    let text = fs::read_to_string(home().join(page)).expect("the page can be read");
    let place = workplace();
    for block in blocks(&text) {
        let ran_here = block.skipped();
        if let Some(reason) = &ran_here
            && (block.is_shell() || block.directives.iter().any(|d| d.starts_with("excerpt:")))
        {
            say_skipped(&format!("{page}:{}: {reason}", block.line));
            continue;
        }
        block.all("setup:").for_each(|command| _ = shell(&place, page, block.line, command));
        if let Some(file) = block.all("file:").next() {
            place.write(file, &block.text);
        } else if let Some(file) = block.all("excerpt:").next() {
            let whole = fs::read_to_string(place.at(file));
            let whole = whole.unwrap_or_else(|e| panic!("{page}:{}: {file}: {e}", block.line));
            occurs(&block.text, &whole, &format!("{page}:{}: {file}", block.line));
        } else if block.is_shell() {
            let mut output = String::new();
            for command in block.commands() {
                output += &shell(&place, page, block.line, &command);
            }
            if block.language == "console" {
                let shown = block.text.replace("\\\n", " ");
                let shown: Vec<&str> = shown.lines().filter(|line| !line.starts_with("$ ")).collect();
                occurs(&shown.join("\n"), &output, &format!("{page}:{}", block.line));
            }
        }
    }
}

macro_rules! pages {
    ($($name:ident $page:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            check($page);
        })*

        #[test]
        fn other_pages() {
            let named = [$($page),*];
            all_pages().iter().filter(|page| !named.contains(&page.as_str())).for_each(|page| check(page));
        }
    };
}

pages! {
    readme "README.md",
    contributing "CONTRIBUTING.md",
    command_line "docs/command-line.md",
    fine_tuning "docs/fine-tuning.md",
    generation "docs/generation.md",
    interchange "docs/interchange.md",
    pods "docs/pods.md",
    reading_a_dump "docs/reading-a-dump.md",
    testing "docs/testing.md",
    tutorial "docs/tutorial.md",
}

/// Returns README.md, CONTRIBUTING.md and all Markdown files of `docs/`.
fn all_pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    let mut folders = vec!["docs".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(home().join(&folder)).expect("the folder can be read") {
            let entry = entry.expect("entries can be read");
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.file_type().expect("types can be read").is_dir() {
                folders.push(path);
            } else if path.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

/// `mdbook` shows only pages that the summary names.
#[test]
fn the_summary_has_every_page() {
    let summary = fs::read_to_string(home().join("docs/SUMMARY.md")).expect("the page can be read");
    for page in all_pages() {
        let Some(page) = page.strip_prefix("docs/").filter(|page| *page != "SUMMARY.md") else { continue };
        assert!(summary.contains(&format!("]({page})")), "docs/{page} is not in docs/SUMMARY.md");
    }
}

/// Commands in running text: subcommands and options exist.
#[test]
fn options_named_in_text_exist() {
    let place = Workplace::new();
    let mut helps: BTreeMap<Vec<String>, Option<String>> = BTreeMap::new();
    let mut help = |words: &[&str]| -> Option<String> {
        let key: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        let run = || {
            let ran = place.run(&[words, &["--help"]].concat());
            (ran.code == Some(0)).then_some(ran.out)
        };
        helps.entry(key).or_insert_with(run).clone()
    };
    for page in all_pages() {
        let text = fs::read_to_string(home().join(&page)).expect("the page can be read");
        for span in text.split('`').filter_map(|span| span.trim().strip_prefix("meshc ")) {
            let words: Vec<&str> = span.split_whitespace().collect();
            let is_word = |word: &&&str| {
                word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
            };
            let Some(command) = words.first().filter(is_word) else { continue };
            if *command == "help" {
                continue;
            }
            let mut shown = help(&[command]);
            assert!(shown.is_some(), "{page}: there is no command `meshc {command}`");
            // `meshc checkpoint list`
            if let Some(sub) = words.get(1).filter(is_word).and_then(|sub| help(&[command, sub])) {
                shown = shown.map(|own| own + &sub);
            }
            let shown = shown.unwrap_or_default();
            for option in words.iter().filter(|word| word.starts_with("--")) {
                let option = option.split(['=', ',', '|', ']', ')']).next().unwrap_or_default();
                let known =
                    shown.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|w| w == option);
                assert!(known, "{page}: `meshc {command}` has no option `{option}`");
            }
        }
    }
}

#[test]
fn blocks_and_directives() {
    let page = "text\n<!-- run: add --x 1 -->\n<!-- run: replace 300 => 2 -->\n```sh\na --n 300 \\\n  b # c\n\n# d\n```\n```console\n$ e\nf\n```\n";
    let found = blocks(page);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].commands(), ["a --n 2    b --x 1 #  c"]);
    assert_eq!(found[0].line, 4);
    assert_eq!(found[1].commands(), ["e  # "]);
    assert_eq!(found[1].directives, Vec::<String>::new());
    let slow =
        Block { directives: vec!["run: needs MESH_NO_SUCH_VARIABLE".to_owned()], ..blocks(page).remove(1) };
    assert_eq!(slow.skipped().as_deref(), Some("MESH_NO_SUCH_VARIABLE is not set"));
}

#[test]
#[should_panic(expected = "this line is missing")]
fn a_wrong_excerpt_fails() {
    occurs("a\n…\nb", "b\na\n", "x");
}

#[test]
fn patterns() {
    occurs("%… = add %…, %…\n…\nc", "%1 = add %2, %x.y\nb\nc", "x");
    for (line, pattern, same) in
        [("abc", "a…c", true), ("abd", "a…c", false), ("ab", "a…", true), ("b", "a…", false)]
    {
        assert_eq!(matches(line, pattern), same, "{line} {pattern}");
    }
}

#[test]
#[should_panic(expected = "fails")]
fn a_failing_command_fails() {
    shell(&Workplace::new(), "x.md", 1, "meshc no-such-command");
}
