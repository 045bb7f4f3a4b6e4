//! A table of measurements, and its text.

use crate::library::Library;
use crate::spread::Spread;

/// The measurements of one library under one condition, a number for each round, or the reason why there are none.
pub type Cell = Result<Vec<f64>, String>;

/// Libraries below each other, conditions beside each other.
pub struct Table {
    better: Better,
    columns: Vec<String>,
    rows: Vec<(Library, Vec<Option<Cell>>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

impl Table {
    pub fn new(better: Better) -> Table {
        Table { better, columns: Vec::new(), rows: Vec::new() }
    }

    /// Adds a column. Libraries that are not in it have an empty cell.
    pub fn column(&mut self, name: impl Into<String>, cells: impl IntoIterator<Item = (Library, Cell)>) {
        for (library, cell) in cells {
            let row = match self.rows.iter().position(|(known, _)| *known == library) {
                Some(row) => row,
                None => {
                    self.rows.push((library, Vec::new()));
                    self.rows.len() - 1
                }
            };
            self.rows[row].1.resize(self.columns.len(), None);
            self.rows[row].1.push(Some(cell));
        }
        self.columns.push(name.into());
        self.rows.iter_mut().for_each(|(_, cells)| cells.resize(self.columns.len(), None));
        self.rows.sort_by_key(|(library, _)| *library);
    }

    /// The medians of a library, with the places of their columns.
    pub fn medians(&self, library: Library) -> Vec<(usize, f64)> {
        let cells = self.row(library).iter().enumerate();
        cells
            .filter_map(|(column, cell)| Some((column, Spread::of(samples(cell)?.to_vec()).median)))
            .collect()
    }

    pub fn libraries(&self) -> Vec<Library> {
        self.rows.iter().map(|(library, _)| *library).collect()
    }

    /// Markdown: medians with their quartiles, the ratios of this library to the others, and why cells are missing.
    pub fn markdown(&self, corner: &str) -> String {
        let mut lines = vec![line(corner, self.columns.iter().map(String::as_str))];
        lines.push(line("---", self.columns.iter().map(|_| "--:")));
        let mut reasons = Vec::new();
        for (library, cells) in &self.rows {
            let texts: Vec<String> =
                cells.iter().map(|cell| self.text(*library, cell, &mut reasons)).collect();
            lines.push(line(&library.to_string(), texts.iter().map(String::as_str)));
        }
        for ours in [Library::Lockkeeper, Library::Dropped] {
            if self.rows.iter().any(|(library, _)| *library == ours) {
                let to_peer: Vec<String> =
                    (0..self.columns.len()).map(|column| self.to_best_peer(ours, column)).collect();
                lines.push(line(&format!("*{ours} ÷ best peer*"), to_peer.iter().map(String::as_str)));
                let to_floor: Vec<String> = (0..self.columns.len())
                    .map(|column| self.ratio(ours, Library::Floor, column).unwrap_or_default())
                    .collect();
                if to_floor.iter().any(|text| !text.is_empty()) {
                    lines.push(line(&format!("*{ours} ÷ floor*"), to_floor.iter().map(String::as_str)));
                }
            }
        }
        let mut text = lines.concat();
        for (number, reason) in reasons.iter().enumerate() {
            text += &format!("\n({}) {reason}\n", number + 1);
        }
        text
    }

    fn row(&self, library: Library) -> &[Option<Cell>] {
        self.rows.iter().find(|(known, _)| *known == library).map_or(&[], |(_, cells)| cells)
    }

    fn text(&self, library: Library, cell: &Option<Cell>, reasons: &mut Vec<String>) -> String {
        match cell {
            None => String::new(),
            Some(Err(reason)) => {
                reasons.push(format!("{library}: {reason}"));
                format!("failed ({})", reasons.len())
            }
            Some(Ok(samples)) if samples.len() == 1 => number(samples[0]),
            Some(Ok(samples)) => {
                let Spread { low, median, high } = Spread::of(samples.clone());
                format!("{} [{} {}]", number(median), number(low), number(high))
            }
        }
    }

    fn to_best_peer(&self, ours: Library, column: usize) -> String {
        let peers = self.rows.iter().filter(|(library, _)| library.is_peer());
        let medians = peers.filter_map(|(library, cells)| {
            Some((Spread::of(samples(&cells[column])?.to_vec()).median, *library))
        });
        let best = match self.better {
            Better::Higher => medians.max_by(|a, b| a.0.total_cmp(&b.0)),
            Better::Lower => medians.min_by(|a, b| a.0.total_cmp(&b.0)),
        };
        let ratio = best.and_then(|(_, peer)| Some((self.ratio(ours, peer, column)?, peer)));
        ratio.map_or_else(String::new, |(ratio, peer)| format!("{ratio} ({peer})"))
    }

    fn ratio(&self, ours: Library, other: Library, column: usize) -> Option<String> {
        let of = |library| samples(self.row(library).get(column)?);
        Some(number(Spread::of_ratios(of(ours)?, of(other)?).median))
    }
}

/// Three significant digits, or all before the decimal point.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    // From 99.95 on, one decimal place would show 100.0.
    let places = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    let whole = text.split('.').next().unwrap_or_default();
    grouped(whole) + &text[whole.len()..]
}

/// A number of things.
pub fn count(things: usize) -> String {
    grouped(&things.to_string())
}

/// Digits, with a comma before every three.
fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn samples(cell: &Option<Cell>) -> Option<&[f64]> {
    cell.as_ref()?.as_deref().ok().filter(|samples| !samples.is_empty())
}

fn line<'a>(first: &str, cells: impl Iterator<Item = &'a str>) -> String {
    let cells: String = cells.map(|cell| format!(" {cell} |")).collect();
    format!("| {first} |{cells}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_significant_digits() {
        let texts = [0.0, 0.994, 1.239, 9.994, 9.996, 62.04, 99.96, 151_234.5, 1e6].map(number);
        assert_eq!(texts, ["0.00", "0.99", "1.24", "9.99", "10.0", "62.0", "100", "151,234", "1,000,000"]);
        assert_eq!(number(f64::NAN), "–");
        assert_eq!([1, 64, 1_024, 1_000_000].map(count), ["1", "64", "1,024", "1,000,000"]);
    }

    #[test]
    fn a_table_has_medians_ratios_and_reasons() {
        let mut table = Table::new(Better::Higher);
        table.column(
            "1",
            [
                (Library::Kazoo, Ok(vec![40.0, 60.0, 50.0])),
                (Library::Lockkeeper, Ok(vec![80.0, 120.0, 100.0])),
                (Library::Curator, Ok(vec![20.0, 20.0, 20.0])),
                (Library::Floor, Ok(vec![100.0, 125.0, 125.0])),
            ],
        );
        let failed = Err("no answer within 45s".to_owned());
        table.column("1,024", [(Library::Lockkeeper, Ok(vec![7.0])), (Library::Kazoo, failed)]);
        let expected = "\
| contenders | 1 | 1,024 |
| --- | --: | --: |
| lockkeeper | 100 [100 120] | 7.00 |
| kazoo | 50.0 [50.0 60.0] | failed (1) |
| Curator | 20.0 [20.0 20.0] |  |
| floor | 125 [125 125] |  |
| *lockkeeper ÷ best peer* | 2.00 (kazoo) |  |
| *lockkeeper ÷ floor* | 0.80 |  |

(1) kazoo: no answer within 45s
";
        assert_eq!(table.markdown("contenders"), expected);
        assert_eq!(table.medians(Library::Lockkeeper), [(0, 100.0), (1, 7.0)]);
        assert_eq!(table.medians(Library::Kazoo), [(0, 50.0)]);
    }

    #[test]
    fn where_less_is_better_the_best_peer_has_the_least() {
        let mut table = Table::new(Better::Lower);
        let cells = [(Library::Lockkeeper, 30.0), (Library::Kazoo, 20.0), (Library::Curator, 40.0)];
        table.column("ms", cells.map(|(library, value)| (library, Ok(vec![value]))));
        assert!(table.markdown("").contains("| *lockkeeper ÷ best peer* | 1.50 (kazoo) |"));
    }
}
