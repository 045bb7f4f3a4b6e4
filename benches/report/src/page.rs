//! The pages, and the files of their plots.

use std::fs;
use std::path::Path;

use crate::Result;
use crate::facts::Facts;
use crate::plan::Plan;
use crate::section::Section;

/// A page without its measurements.
pub struct Page {
    /// The name of the file.
    file: &'static str,
    /// How many there are.
    pub servers: &'static str,
    head: &'static str,
    how: fn(&Plan) -> String,
}

/// How fast it is.
pub const BENCHMARKS: Page = Page { file: "benchmarks.md", servers: "standalone", head: HEAD, how };

/// What is left of that while a fault lasts.
pub const LASTING_FAULTS: Page = Page {
    file: "lasting-faults.md",
    servers: "an ensemble of three",
    head: LASTING_FAULTS_HEAD,
    how: how_under_faults,
};

impl Page {
    /// Writes the page, and the plots in `benchmarks`, into a directory.
    pub fn write(&self, directory: &Path, facts: &Facts, plan: &Plan, sections: &[Section]) -> Result<()> {
        let plots = directory.join(PLOTS);
        fs::create_dir_all(&plots)?;
        for (name, plot) in sections.iter().filter_map(|section| section.plot.as_ref()) {
            plot.write(&plots.join(format!("{name}.svg")))?;
        }
        Ok(fs::write(directory.join(self.file), self.text(facts, plan, sections))?)
    }

    fn text(&self, facts: &Facts, plan: &Plan, sections: &[Section]) -> String {
        let mut text = String::from(self.head);
        text += "\n## The machine and the versions\n\n| | |\n|---|---|\n";
        for (name, fact) in &facts.0 {
            text += &format!("| {name} | {fact} |\n");
        }
        text += &format!("\n## How it was measured\n\n{}", wrapped(&(self.how)(plan)));
        for section in sections {
            let table = section.table.markdown(section.corner);
            text += &format!("\n## {}\n\n{}\n{table}", section.title, wrapped(&section.text));
            if let Some((name, plot)) = &section.plot {
                text += &format!("\n![{}]({PLOTS}/{name}.svg)\n", plot.title);
            }
        }
        text
    }
}

const PLOTS: &str = "benchmarks";

const HEAD: &str = "\
# Benchmarks

This page is generated, with all its text. `cargo run --release -p lockkeeper-report` measures everything again and writes
it, on Debian as root; it installs what is missing. It takes about twenty minutes. A machine that does something
else meanwhile gives other numbers.
";

const LASTING_FAULTS_HEAD: &str = "\
# Faults that last

How many locks lockkeeper, kazoo and Curator grant while a fault lasts. This page is generated, with all its text, by
`cargo run --release -p lockkeeper-report -- --faults`, on Debian as root, in about ten minutes. The command fails if
lockkeeper grants fewer than its lower bounds.
";

fn how_under_faults(plan: &Plan) -> String {
    let (rounds, window) = plan.lasting;
    format!(
        "Clients and servers share the machine. Every member of the ensemble forces its writes to disk before it \
         confirms them. Grants are counted for {window:?} a round, inside the process of the library.\n\n{}",
        rounds_of(rounds)
    )
}

fn rounds_of(rounds: usize) -> String {
    match rounds {
        1 => {
            "There was one round: this page shows that everything works, and its numbers are no measurement."
                .into()
        }
        rounds => format!(
            "The libraries ran in turn, in {rounds} rounds, each time in another order, so that a slow moment of the \
             machine slows down all of them. A cell has the median and, in brackets, the quartiles of the rounds. A \
             ratio is the median of the ratios of each round. Rely on the ratios."
        ),
    }
}

fn how(plan: &Plan) -> String {
    let rounds = rounds_of(plan.rounds);
    format!(
        "Client and servers share the machine. The server is a real ZooKeeper that forces every write to disk before it \
         answers, as by default; so is each member of the ensemble.\n\n\
         A cycle is an acquire and a release. Every contender repeats cycles and has a lock object of its own. Cycles \
         are counted for {:?} a round, inside the process of the library, by the system's clock: the pipe to that \
         process is not part of any time. Each library has one process, which keeps running, so that Java has compiled \
         its code; the sessions are new in every round.\n\n\
         {rounds}\n\n\
         The floor is what the same client as lockkeeper's can do without a lock around it: for a cycle, a create and \
         a delete of an ephemeral sequential node, each awaited. *Best peer* is the best of the libraries that are not \
         ours, which is named. *zookeeper-client's lock* is the lock of the client that lockkeeper is built on. lockkeeper \
         sets `TCP_NODELAY` on its connections, the bare client does not. go-zookeeper is the old version that Debian \
         has.\n\n\
         A cell that failed says why below its table, and did not end the run.",
        plan.window
    )
}

/// Breaks paragraphs into lines.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 118;
    let mut lines = String::new();
    for paragraph in text.split("\n\n") {
        if !lines.is_empty() {
            lines.push('\n');
        }
        let mut length = 0;
        for word in paragraph.split_whitespace() {
            if length > 0 && length + 1 + word.chars().count() > WIDTH {
                lines.push('\n');
                length = 0;
            } else if length > 0 {
                lines.push(' ');
                length += 1;
            }
            lines.push_str(word);
            length += word.chars().count();
        }
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::Library;
    use crate::table::{Better, Table};

    #[test]
    fn the_page_has_facts_tables_and_plots() {
        let mut table = Table::new(Better::Higher);
        table.column("1", [(Library::Lockkeeper, Ok(vec![72.0]))]);
        let section = Section {
            title: "One contender",
            text: "Cycles a second.".to_owned(),
            corner: "cycles",
            table,
            plot: None,
        };
        let facts = Facts(vec![("kernel", "Linux 6.1".to_owned())]);
        let text = BENCHMARKS.text(&facts, &Plan::FULL, &[section]);
        for expected in [
            "# Benchmarks\n",
            "| kernel | Linux 6.1 |\n",
            "in 5 rounds",
            "## One contender\n\nCycles a second.\n\n| cycles | 1 |\n| --- | --: |\n| lockkeeper | 72.0 |\n",
        ] {
            assert!(text.contains(expected), "no {expected:?} in\n{text}");
        }
    }

    #[test]
    fn paragraphs_are_wrapped() {
        let text = format!("{}\n\nthe  end", ["word"; 40].join(" "));
        let wrapped = wrapped(&text);
        assert!(wrapped.lines().all(|line| line.len() <= 118), "{wrapped}");
        assert_eq!(wrapped.split_whitespace().filter(|word| *word == "word").count(), 40);
        assert!(wrapped.ends_with("word\n\nthe end\n"), "{wrapped}");
    }
}
