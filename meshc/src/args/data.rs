//! What to train on or to evaluate, as the command line says: one text, or several and how much of each.

use crate::output::failure::failure;
use anyhow::{Context, Result};
use data::{
    Codec, Corpus, Mixture, MixtureSpec, PreparedTokens, Stats, TEXT_FIELD, Task, Temperature, Text,
    Tokenizer, Tokens, rates::CorpusSpec,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Options of commands that make examples of text.
#[derive(clap::Args, Debug)]
pub struct DataOptions {
    /// Text, JSON lines (plain, .gz or .zst), Parquet; folders with such files; patterns such as 'corpus/*.jsonl.gz'; a
    /// folder of `meshc data prepare`. Several texts have names and, if wanted, rates: en='en/*.txt':2 de=german:1
    #[arg(long, required_unless_present = "mixture", num_args = 1.., value_name = "FILE|NAME=FILE[:RATE]")]
    data: Vec<PathBuf>,
    /// Several texts, described in a file: `temperature`, `cap`, and a table [sources.NAME] for each with `files`, and
    /// `rate` and `text_field` if wanted
    #[arg(long, value_name = "FILE.toml", conflicts_with = "data")]
    mixture: Option<PathBuf>,
    /// Where texts have no rates: they are taken in proportion to (examples)^(1/T). Default: 1
    #[arg(long, value_name = "T")]
    mix_temperature: Option<f64>,
    /// Where texts have no rates: no more examples of a text than this count
    #[arg(long, value_name = "N")]
    mix_cap: Option<u64>,
    #[command(flatten)]
    reading: Reading,
}

/// Texts, read.
pub struct Texts {
    all: Vec<Corpus>,
    temperature: Temperature,
}

impl DataOptions {
    /// Reads everything.
    pub fn open(&self) -> Result<Texts> {
        self.read(match &self.mixture {
            Some(path) => described(path)?,
            None => named(&self.data)?,
        })
    }

    /// Reads other texts in the same way.
    pub fn open_others(&self, files: &[PathBuf]) -> Result<Texts> {
        self.read(named(files)?)
    }

    fn read(&self, mixture: MixtureSpec) -> Result<Texts> {
        let tokenizer = self.reading.tokenizer.named()?;
        let mut all = Vec::new();
        for (name, CorpusSpec { files, rate, text_field }) in &mixture.sources {
            let read = self.reading.tokens(files, text_field.as_deref(), tokenizer.as_ref());
            let tokens = match name.is_empty() {
                true => read?,
                false => read.with_context(|| format!("text `{name}` of the mixture"))?,
            };
            all.push(Corpus { name: name.clone(), rate: *rate, tokens });
        }
        let (temperature, cap) = (self.mix_temperature.or(mixture.temperature), self.mix_cap.or(mixture.cap));
        if (temperature.is_some() || cap.is_some()) && mixture.sources.values().all(|s| s.rate.is_some()) {
            return Err(failure(
                "a temperature or a cap for texts that have rates",
                "leave the rates out, or the temperature and the cap",
            ));
        }
        let default = Temperature::default();
        let temperature = Temperature {
            temperature: temperature.unwrap_or(default.temperature),
            cap: cap.unwrap_or(default.cap),
        };
        Ok(Texts { all, temperature })
    }
}

impl Texts {
    /// Examples for a task; a share of each text is kept for evaluation.
    pub fn mixture(self, task: Task, held_out: f64) -> Result<Arc<Mixture>> {
        let options = data::Options { held_out, temperature: self.temperature, ..data::Options::default() };
        Ok(Arc::new(Mixture::new(self.all, task, &options)?))
    }
}

/// The mixture that a file describes. Its paths begin where it is.
fn described(path: &Path) -> Result<MixtureSpec> {
    let text =
        fs::read_to_string(path).with_context(|| format!("reading the mixture `{}`", path.display()))?;
    let help =
        "write temperature = 3.3, if wanted, and for each text a table [sources.NAME] with files = [\"…\"]";
    let mut mixture: MixtureSpec = toml::from_str(&text)
        .map_err(|e| failure(format!("`{}` describes no mixture: {e}", path.display()), help))?;
    if mixture.sources.is_empty() {
        return Err(failure(format!("`{}` describes no mixture: it has no sources", path.display()), help));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    for (name, ingredient) in &mut mixture.sources {
        is_name(name).map_err(|why| failure(format!("`{}`: {why}", path.display()), help))?;
        ingredient.files.iter_mut().for_each(|file| *file = folder.join(&*file));
    }
    Ok(mixture)
}

/// The mixture of what `--data` names: one text without a name, or several with names.
fn named(data: &[PathBuf]) -> Result<MixtureSpec> {
    let mut mixture = MixtureSpec::default();
    for given in data {
        let (name, file, rate) = spec(given);
        let ingredient = mixture.sources.entry(name.unwrap_or_default().to_owned()).or_default();
        ingredient.files.push(file);
        match (ingredient.rate, rate) {
            (Some(one), Some(other)) if one != other => {
                return Err(failure(
                    format!(
                        "`{}` gives a rate of {other}, and the same text has one of {one}",
                        given.display()
                    ),
                    "a text has one rate: give it once",
                ));
            }
            _ => ingredient.rate = rate.or(ingredient.rate),
        }
    }
    if mixture.sources.len() > 1 && mixture.sources.contains_key("") {
        return Err(failure(
            format!("`{}` has no name, but others have", mixture.sources[""].files[0].display()),
            "name all texts of a mixture, as in --data en=FILE de=FILE; or none, if they are one text",
        ));
    }
    for name in mixture.sources.keys().filter(|name| !name.is_empty()) {
        is_name(name).map_err(|why| failure(why, "such as --data en=FILE de=FILE"))?;
    }
    Ok(mixture)
}

/// Name, file and rate of `NAME=FILE:RATE`, of which the first and the last may be missing. What is there by that name is
/// a file.
fn spec(given: &Path) -> (Option<&str>, PathBuf, Option<f64>) {
    let whole = || (None, given.to_owned(), None);
    let Some((name, file)) = given.to_str().and_then(|text| text.split_once('=')) else { return whole() };
    if given.exists() || is_name(name).is_err() {
        return whole();
    }
    let rated = file.rsplit_once(':').and_then(|(file, rate)| Some((file, rate.parse().ok()?)));
    match rated.filter(|_| !Path::new(file).exists()) {
        Some((file, rate)) => (Some(name), file.into(), Some(rate)),
        None => (Some(name), file.into(), None),
    }
}

fn is_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    match !name.is_empty() && name.chars().all(good) {
        true => Ok(()),
        false => Err(format!("`{name}` names no text: a name has letters, digits, `_`, `-` and `.`")),
    }
}

/// What makes tokens of text, and text of tokens.
#[derive(clap::Args, Debug)]
pub struct TokenizerArgs {
    /// How text becomes tokens: bytes, or a file: tokenizer.json or a SentencePiece model. Default: that of prepared
    /// tokens, else bytes
    #[arg(long, value_name = "bytes|FILE")]
    tokenizer: Option<String>,
}

impl TokenizerArgs {
    /// The one that was named, if one was.
    pub fn named(&self) -> Result<Option<Tokenizer>> {
        Ok(match self.tokenizer.as_deref() {
            None => None,
            Some("bytes") => Some(Tokenizer::Bytes),
            Some(file) => Some(Tokenizer::Pieces(data::tokenizer::open(Path::new(file))?)),
        })
    }

    /// The one that was named, else bytes.
    pub fn or_bytes(&self) -> Result<Tokenizer> {
        Ok(self.named()?.unwrap_or(Tokenizer::Bytes))
    }

    /// What makes tokens of text for a model: the tokenizer that was named, which is to fit; else bytes, if they do.
    pub fn codec(&self, vocab: usize) -> Result<Option<Codec>> {
        Ok(match self.named()? {
            Some(tokenizer) => Some(Codec::with(vocab, tokenizer)?),
            None => Codec::new(vocab).ok(),
        })
    }
}

/// Options of commands that read text.
#[derive(clap::Args, Debug)]
pub struct Reading {
    /// The field of JSON lines, or the column of Parquet, that has the text
    #[arg(long, value_name = "FIELD", default_value = TEXT_FIELD)]
    pub text_field: String,
    #[command(flatten)]
    pub tokenizer: TokenizerArgs,
}

impl Reading {
    /// The tokens of these files, or those that were prepared.
    pub fn tokens(
        &self,
        paths: &[PathBuf],
        field: Option<&str>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Tokens> {
        Ok(Tokens::open(paths, field.unwrap_or(&self.text_field), tokenizer)?)
    }

    /// Numbers about these files, or about prepared tokens; what was left out; and what made the tokens.
    pub fn stats(&self, paths: &[PathBuf]) -> Result<(Stats, Text, Tokenizer)> {
        if let [dir] = paths
            && PreparedTokens::is_at(dir)
        {
            let prepared = PreparedTokens::open(dir)?;
            let stats = Stats::of_prepared(&prepared)?;
            let tokens = Tokens::of_prepared(prepared, self.tokenizer.named()?.as_ref())?;
            return Ok((stats, Text::default(), tokens.tokenizer().clone()));
        }
        let text = Text::read_field(paths, &self.text_field)?;
        let tokenizer = self.tokenizer.or_bytes()?;
        Ok((Stats::of(&text, &tokenizer)?, text, tokenizer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_names_and_rates() {
        let of = |text: &str| {
            let (name, file, rate) = spec(Path::new(text));
            (name.map(str::to_owned), file.display().to_string(), rate)
        };
        let own = |name: &str, file: &str, rate| (Some(name.to_owned()), file.to_owned(), rate);
        assert_eq!(of("a.txt"), (None, "a.txt".into(), None));
        assert_eq!(of("en=a/*.txt"), own("en", "a/*.txt", None));
        assert_eq!(of("en=a/*.txt:2.5"), own("en", "a/*.txt", Some(2.5)));
        assert_eq!(of("en=C:a"), own("en", "C:a", None));
        assert_eq!(of("a/b=c"), (None, "a/b=c".into(), None));
        assert_eq!(of("=c"), (None, "=c".into(), None));
        let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
        let mixture = named(&paths(&["b=x:1", "a=y", "b=z"])).unwrap();
        assert_eq!(mixture.sources.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((mixture.sources["b"].rate, mixture.sources["b"].files.len()), (Some(1.0), 2));
        let error = |all: &[&str]| named(&paths(all)).unwrap_err().to_string();
        assert!(error(&["a", "b=c"]).contains("`a` has no name"));
        assert!(error(&["b=c:1", "b=d:2"]).contains("a rate of 2"));
    }
}
