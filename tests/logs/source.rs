//! The spans and events that stand in the source.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::Row;

const MACROS: [(&str, &str); 5] = [
    ("trace!(", "trace"),
    ("debug!(", "debug"),
    ("info!(", "info"),
    ("warn!(", "warn"),
    ("debug_span!(", "debug span"),
];

/// All of them, from the actors, because nothing else of the library logs.
pub fn rows() -> BTreeSet<Row> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(rows_of(&root.join("src")).is_empty(), "the table has no column for the package");
    rows_of(&root.join("actors/src"))
}

fn rows_of(folder: &Path) -> BTreeSet<Row> {
    let mut rows = BTreeSet::new();
    for file in files(folder) {
        let module = module(file.strip_prefix(folder).expect("a file of the folder"));
        let text = fs::read_to_string(&file).expect("readable");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        assert!(!code.contains("error!(") && !code.contains("instrument"), "{module}: not read by this test");
        for (name, level) in MACROS {
            let calls = code.split(name).collect::<Vec<_>>();
            for pair in calls.windows(2) {
                // Not the end of a longer name, such as that of a span.
                if !pair[0].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                    rows.insert(row(level, &module, &arguments(pair[1])));
                }
            }
        }
    }
    rows
}

fn row(level: &str, module: &str, arguments: &[String]) -> Row {
    let is_text = |argument: &String| argument.starts_with('"');
    let (messages, fields): (Vec<&String>, Vec<&String>) =
        arguments.iter().partition(|argument| is_text(argument));
    let [message] = messages[..] else { panic!("{module}: one message: {arguments:?}") };
    Row {
        level: level.to_owned(),
        module: module.to_owned(),
        message: message.trim_matches('"').to_owned(),
        fields: fields.into_iter().map(|field| field_name(field)).collect(),
    }
}

/// `?reason`, `%path` and `path = %self.path` name a field.
fn field_name(field: &str) -> String {
    let name = field.split(" = ").next().unwrap_or_default();
    name.trim_start_matches(['?', '%']).to_owned()
}

/// The arguments of a macro, of which `text` is what follows the opening parenthesis.
fn arguments(text: &str) -> Vec<String> {
    let (mut arguments, mut depth, mut quoted) = (vec![String::new()], 0, false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => break,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        arguments.last_mut().expect("at least one").push(c);
    }
    arguments.iter().map(|argument| argument.trim().to_owned()).filter(|a| !a.is_empty()).collect()
}

/// The module of a file, without the name of the crate.
fn module(file: &Path) -> String {
    let name = file.with_extension("").to_string_lossy().replace('/', "::");
    name.strip_suffix("::mod").unwrap_or(&name).to_owned()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.chain(folders.iter().flat_map(|folder| self::files(folder))).collect()
}
