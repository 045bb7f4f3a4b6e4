//! The modules of each package import downwards only: there is no circle among the entries of its `src` folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules that each module names, by the entries of a `src` folder.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn imports_go_down_only() {
    for folder in ["src", "actors/src", "embedded/src", "cli/src"] {
        let imports = imports(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
        let arrows: usize = imports.values().map(BTreeSet::len).sum();
        println!("{folder}: {} modules, {arrows} arrows", imports.len());
        assert!(imports.len() > 4 && arrows > 4, "{folder} was not read");
        assert_eq!(circle(&imports), BTreeSet::new(), "modules of {folder} that import each other");
    }
}

#[test]
fn a_circle_is_found() {
    let source =
        |imports: &[&str]| imports.iter().map(|name| format!("use crate::{name}::Name;\n")).collect();
    let files: [(&str, String); 4] =
        [("a", source(&["b"])), ("b", source(&["c"])), ("c", source(&["a"])), ("d", source(&["a"]))];
    let imports = files.iter().map(|(name, text)| (name.to_string(), named_in(text))).collect();
    assert_eq!(circle(&imports), ["a", "b", "c"].map(String::from).into());
}

fn imports(folder: &Path) -> Imports {
    let mut imports = Imports::new();
    for file in rust_files(folder) {
        let entry = file.strip_prefix(folder).expect("a file of the folder").components().next();
        let entry = entry.expect("a name").as_os_str().to_string_lossy();
        let module = entry.trim_end_matches(".rs").to_owned();
        // The root of the crate declares all modules.
        if module != "lib" {
            let named = named_in(&fs::read_to_string(&file).expect("readable"));
            imports.entry(module).or_default().extend(named);
        }
    }
    let modules: BTreeSet<String> = imports.keys().cloned().collect();
    for (module, named) in &mut imports {
        named.retain(|name| name != module && modules.contains(name));
    }
    imports
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.chain(folders.iter().flat_map(|folder| rust_files(folder))).collect()
}

/// The modules that a source text names as `crate::…`, outside comments and unit tests.
fn named_in(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: String = code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    assert!(!code.contains("use crate::{"), "one line for each module, so that this test can read it");
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let name = |path: &str| path.chars().take_while(|c| is_name(*c)).collect();
    code.split("crate::").skip(1).map(name).collect()
}

/// What is left when all modules that import nothing are taken away, again and again, and all that nothing imports.
fn circle(imports: &Imports) -> BTreeSet<String> {
    let mut left: BTreeSet<String> = imports.keys().cloned().collect();
    loop {
        let imports_any = |module: &String| imports[module].iter().any(|name| left.contains(name));
        let imported = |module: &String| left.iter().any(|other| imports[other].contains(module));
        let next: BTreeSet<String> =
            left.iter().filter(|module| imports_any(module) && imported(module)).cloned().collect();
        if next == left {
            return left;
        }
        left = next;
    }
}
