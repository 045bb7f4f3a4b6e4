//! The links of the documents lead somewhere: in the repository, in the book that mdBook makes of `docs`, and in the
//! crate's documentation, which has some of the pages as modules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The folders with documents.
const FOLDERS: [&str; 7] = ["", ".github", "actors", "cli", "docs", "embedded", "embedded/fuzz"];

#[test]
fn links_lead_to_files_and_headings() {
    let pages: Vec<PathBuf> = FOLDERS.iter().flat_map(|folder| pages_in(folder)).collect();
    let problems: Vec<String> = pages.iter().flat_map(|page| problems_of(page, &read(page))).collect();
    assert_eq!(problems, Vec::<String>::new());
    let links: usize = pages.iter().map(|page| Page::new(&read(page)).targets().count()).sum();
    assert!(links > 100, "only {links} links were found");
}

#[test]
fn the_book_has_every_page_once() {
    let summary = Path::new("docs/SUMMARY.md");
    let mut pages: Vec<PathBuf> = pages_in("docs").into_iter().filter(|page| page != summary).collect();
    let summary = Page::new(&read(summary));
    let mut entries: Vec<PathBuf> =
        summary.inline.iter().map(|entry| Path::new("docs").join(entry)).collect();
    pages.sort();
    entries.sort();
    assert_eq!(entries, pages);
}

#[test]
fn pages_of_the_book_link_to_files_of_the_book_only() {
    for page in pages_in("docs") {
        for target in Page::new(&read(&page)).targets().filter(|target| is_relative(target)) {
            assert!(!target.starts_with(".."), "{}: {target} is not part of the book", page.display());
        }
    }
}

#[test]
fn the_crates_documentation_has_a_link_for_each_of_its_pages_links() {
    let library = read("src/lib.rs");
    let included = library.split("include_str!(\"../").skip(1).filter_map(|rest| rest.split('"').next());
    let ours = Page::new(&read("src/links.md")).definitions;
    let mut unused: BTreeSet<&String> = ours.keys().collect();
    for name in included {
        let page = Page::new(&read(name));
        let inline: Vec<&String> = page.inline.iter().filter(|target| is_relative(target)).collect();
        assert!(inline.iter().all(|target| target.starts_with('#')), "{name}: give names to {inline:?}");
        for (link, target) in page.definitions.iter().filter(|(link, _)| ours.contains_key(*link)) {
            unused.remove(link);
            let (of_page, of_crate) = (anchor(target), anchor(&ours[link]));
            assert!(of_crate.is_none() || of_page == of_crate, "{name}: [{link}] is another section");
        }
        for (link, target) in page.definitions.iter().filter(|(_, target)| is_relative(target)) {
            assert!(ours.contains_key(link), "{name}: [{link}] for {target} is not in src/links.md");
        }
    }
    assert_eq!(unused, BTreeSet::new(), "no page has these links of src/links.md");
}

#[test]
fn a_broken_link_is_found() {
    let problems = |text: &str| problems_of(Path::new("docs/guide.md"), text).len();
    let good = "# A `b`: c\n[here](#a-b-c), [there](safety.md#tokens-in-use), [out](https://x.org/)";
    assert_eq!(problems(good), 0);
    assert_eq!(problems("`[code](nowhere.md)`\n```text\n[code](nowhere.md)\n```\n"), 0);
    assert_eq!(problems("[a file](nowhere.md)"), 1);
    assert_eq!(problems("# Here\n[a heading](#there)"), 1);
    assert_eq!(problems("[a heading elsewhere](safety.md#nowhere)"), 1);
    assert_eq!(problems("[a name][nobody]"), 1);
    assert_eq!(problems("[a name][somebody]\n\n[somebody]: nowhere.md"), 1);
}

/// What is wrong with the links of a page.
fn problems_of(path: &Path, text: &str) -> Vec<String> {
    let page = Page::new(text);
    let undefined = page.references.iter().filter(|name| !page.definitions.contains_key(*name));
    let undefined = undefined.map(|name| format!("{}: [{name}] is not defined", path.display()));
    let broken = page.targets().filter(|target| is_relative(target)).filter_map(|target| {
        let problem = broken(path, &page, target)?;
        Some(format!("{}: {target}: {problem}", path.display()))
    });
    undefined.chain(broken).collect()
}

/// Why a relative link leads nowhere.
fn broken(path: &Path, page: &Page, target: &str) -> Option<&'static str> {
    let file = target.split('#').next().unwrap_or_default();
    let linked = match file {
        "" => path.to_owned(),
        file => without_dots(&path.parent().unwrap_or(Path::new("")).join(file)),
    };
    if !root().join(&linked).exists() {
        return Some("no such file");
    }
    let headings = if file.is_empty() { page.headings.clone() } else { Page::new(&read(&linked)).headings };
    match anchor(target) {
        Some(anchor) if !headings.contains(anchor) => Some("no such heading"),
        Some(_) | None => None,
    }
}

/// The links and headings of a page, outside code.
struct Page {
    /// The targets of links of the form `[text](target)`.
    inline: Vec<String>,
    /// The names in links of the form `[text][name]`.
    references: Vec<String>,
    /// Targets by name: `[name]: target`.
    definitions: BTreeMap<String, String>,
    /// The headings, as GitHub names them in links.
    headings: BTreeSet<String>,
}

impl Page {
    fn new(text: &str) -> Page {
        let mut in_code = false;
        let lines = text.lines().filter(|line| {
            let is_fence = line.trim_start().starts_with("```");
            in_code ^= is_fence;
            !in_code && !is_fence
        });
        let (headings, lines): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with('#'));
        let (definitions, lines): (Vec<&str>, Vec<&str>) =
            lines.into_iter().partition(|line| is_definition(line));
        let prose = lines.join("\n").split('`').step_by(2).collect::<String>();
        let up_to = |end: char| move |rest: &str| rest.split(end).next().unwrap_or_default().to_owned();
        Page {
            inline: prose.split("](").skip(1).map(up_to(')')).collect(),
            references: prose.split("][").skip(1).map(up_to(']')).map(|name| normal(&name)).collect(),
            definitions: definitions
                .iter()
                .filter_map(|line| line[1..].split_once("]: "))
                .map(|(name, target)| (normal(name), target.to_owned()))
                .collect(),
            headings: names(&headings),
        }
    }

    fn targets(&self) -> impl Iterator<Item = &String> {
        self.inline.iter().chain(self.definitions.values())
    }
}

/// The names of headings: small letters, digits, `-` and `_`, and a number for the second one of a name.
fn names(headings: &[&str]) -> BTreeSet<String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let names = headings.iter().map(|heading| {
        let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        let name: String = text.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect();
        let times = seen.entry(name.clone()).or_default();
        *times += 1;
        if *times == 1 { name } else { format!("{name}-{}", *times - 1) }
    });
    names.collect()
}

fn is_definition(line: &str) -> bool {
    line.starts_with('[') && line.contains("]: ")
}

/// Names are compared without regard to case and line breaks.
fn normal(name: &str) -> String {
    name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

fn is_relative(target: &str) -> bool {
    !target.contains("://") && !target.starts_with("mailto:")
}

fn anchor(target: &str) -> Option<&str> {
    target.split_once('#').map(|(_, anchor)| anchor)
}

fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// The documents in a folder, by their paths in the repository.
fn pages_in(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder");
    let names = entries.map(|entry| entry.expect("readable").file_name());
    let pages = names.map(|name| Path::new(folder).join(name));
    pages.filter(|page| page.extension().is_some_and(|extension| extension == "md")).collect()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
