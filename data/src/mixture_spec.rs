//! Mixtures as the user describes them: a TOML file, or words `NAME=FILE:RATE`.

use crate::{Error, MixtureSpec, Result};
use std::path::{Path, PathBuf};

impl MixtureSpec {
    /// Reads the mixture that a TOML file describes. Relative paths are relative to the file.
    ///
    /// # Errors
    /// The file cannot be read, or is not a mixture.
    pub fn of_file(path: &Path) -> Result<Self> {
        let text = proto::regular::read_to_string(path).map_err(Error::io("reading the mixture", path))?;
        let help = "for each corpus write a table [sources.NAME] with files = [\"…\"]; temperature = 3.3 is optional";
        let mut mixture: Self = toml::from_str(&text)
            .map_err(|e| Error::input(format!("`{}` is not a mixture: {e}", path.display()), help))?;
        if mixture.sources.is_empty() {
            return Err(Error::input(
                format!("`{}` is not a mixture: it has no sources", path.display()),
                help,
            ));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        for (name, ingredient) in &mut mixture.sources {
            is_name(name).map_err(|why| Error::input(format!("`{}`: {why}", path.display()), help))?;
            ingredient.files.iter_mut().for_each(|file| *file = folder.join(&*file));
        }
        Ok(mixture)
    }

    /// Returns the mixture that the words of `--data` name: one corpus without a name, or several with names.
    ///
    /// # Errors
    /// Names or rates contradict each other.
    pub fn of_words(data: &[PathBuf]) -> Result<Self> {
        let mut mixture = Self::default();
        for given in data {
            let (name, file, rate) = spec(given);
            let ingredient = mixture.sources.entry(name.unwrap_or_default().to_owned()).or_default();
            ingredient.files.push(file);
            match (ingredient.rate, rate) {
                (Some(one), Some(other)) if one != other => {
                    return Err(Error::input(
                        format!(
                            "`--data {}`: the rate {other} contradicts the rate {one} of the same corpus",
                            given.display()
                        ),
                        "give the rate of a corpus once",
                    ));
                }
                _ => ingredient.rate = rate.or(ingredient.rate),
            }
        }
        if mixture.sources.len() > 1 && mixture.sources.contains_key("") {
            return Err(Error::input(
                format!("`--data {}` has no name, but others have", mixture.sources[""].files[0].display()),
                "name all corpora of a mixture, as in --data en=FILE de=FILE, or none if they form one corpus",
            ));
        }
        for name in mixture.sources.keys().filter(|name| !name.is_empty()) {
            is_name(name)
                .map_err(|why| Error::input(why, "choose another name, as in --data en=FILE de=FILE"))?;
        }
        Ok(mixture)
    }
}

/// Splits `NAME=FILE:RATE`; name and rate are optional. If a file of the whole name exists, it is meant.
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

fn is_name(name: &str) -> std::result::Result<(), String> {
    let good = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !name.is_empty() && name.chars().all(good) {
        Ok(())
    } else {
        Err(format!("`{name}` is not the name of a corpus: use letters, digits, `_`, `-` and `.`"))
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
        let mixture = MixtureSpec::of_words(&paths(&["b=x:1", "a=y", "b=z"])).unwrap();
        assert_eq!(mixture.sources.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((mixture.sources["b"].rate, mixture.sources["b"].files.len()), (Some(1.0), 2));
        let error = |all: &[&str]| MixtureSpec::of_words(&paths(all)).unwrap_err().to_string();
        assert!(error(&["a", "b=c"]).contains("`--data a` has no name"));
        assert!(error(&["b=c:1", "b=d:2"]).contains("the rate 2"));
    }
}
