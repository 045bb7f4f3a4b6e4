//! The modules of each package import downwards only: there is no circle among the entries of its `src` folder, nor among
//! the files of one folder below.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules that each module names, by the entries of a `src` folder.
type Imports = BTreeMap<String, BTreeSet<String>>;

const FOLDERS: [&str; 5] = ["src", "actors/src", "benches/report/src", "cli/src", "embedded/src"];

#[test]
fn imports_go_down_only() {
    for folder in FOLDERS {
        let imports = imports(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
        let arrows: usize = imports.values().map(BTreeSet::len).sum();
        println!("{folder}: {} modules, {arrows} arrows", imports.len());
        assert!(imports.len() > 4 && arrows > 4, "{folder} was not read");
        assert_eq!(circle(&imports), BTreeSet::new(), "modules of {folder} that import each other");
    }
}

#[test]
fn files_of_a_folder_import_each_other_downwards_only() {
    let folders = FOLDERS.map(PathBuf::from);
    let mut folders: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| folders_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)))
        .collect();
    folders.retain(|folder| !folder.ends_with("tests"));
    assert!(folders.len() > 10, "{folders:?}");
    let mut arrows = 0;
    for folder in folders {
        let siblings = siblings(&folder);
        arrows += siblings.values().map(BTreeSet::len).sum::<usize>();
        assert_eq!(
            circle(&siblings),
            BTreeSet::new(),
            "files of {} that import each other",
            folder.display()
        );
    }
    assert!(arrows > 10, "{arrows} arrows");
}

#[test]
fn a_circle_is_found() {
    let source =
        |imports: &[&str]| imports.iter().map(|name| format!("use crate::{name}::Name;\n")).collect();
    let files: [(&str, String); 4] =
        [("a", source(&["b"])), ("b", source(&["c"])), ("c", source(&["a"])), ("d", source(&["a"]))];
    let imports = files.iter().map(|(name, text)| (name.to_string(), named_in(text))).collect();
    assert_eq!(circle(&imports), ["a", "b", "c"].map(String::from).into());
    assert_eq!(
        named_after("super::", "use super::a::Name;\nuse super::{b, c};\n"),
        ["a", "b", "c"].map(String::from).into()
    );
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

fn folders_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path());
    let folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.iter().flat_map(|folder| [vec![folder.clone()], folders_below(folder)].concat()).collect()
}

/// The files of a folder that each of them names as `super::…`.
fn siblings(folder: &Path) -> Imports {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path());
    let files = entries.map(|path| if path.is_dir() { path.join("mod.rs") } else { path });
    let files = files.filter(|path| path.is_file() && *path != folder.join("mod.rs"));
    let name = |file: &PathBuf| {
        let named = if file.ends_with("mod.rs") { file.parent() } else { Some(file.as_path()) };
        named.and_then(Path::file_stem).expect("a name").to_string_lossy().into_owned()
    };
    let read =
        |file: PathBuf| (name(&file), named_after("super::", &fs::read_to_string(&file).expect("readable")));
    let mut imports: Imports = files.map(read).collect();
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
    assert!(!text.contains("use crate::{"), "one line for each module, so that this test can read it");
    named_after("crate::", text)
}

/// The names that follow a prefix, alone or in braces, outside comments and unit tests.
fn named_after(prefix: &str, text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: String = code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let name = |path: &str| path.trim_start().chars().take_while(|c| is_name(*c)).collect::<String>();
    let paths = code.split(prefix).skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        Some(several) => several.split('}').next().unwrap_or_default().split(',').map(name).collect(),
        None => vec![name(rest)],
    });
    paths.collect()
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
