//! The table of results.

#[derive(Clone)]
pub struct Row {
    pub name: String,
    value: String,
    ratio: String,
    verdict: String,
}

/// The expected range of a ratio.
#[derive(Clone, Copy)]
pub enum Expectation {
    AtLeast(f64),
    AtMost(f64),
}

impl Expectation {
    /// Compares the value rounded to two decimal places, as it is printed. Without a value it is missed.
    fn verdict(self, value: Option<f64>) -> String {
        let rounded = value.map(|value| (value * 100.0).round() / 100.0);
        let (sign, bound, met) = match self {
            Expectation::AtLeast(bound) => ('≥', bound, rounded.is_some_and(|value| value >= bound)),
            Expectation::AtMost(bound) => ('≤', bound, rounded.is_some_and(|value| value <= bound)),
        };
        format!("{sign} {bound:<5} {}", if met { "met" } else { "MISSED" })
    }
}

impl Row {
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Row {
        Row { name: name.into(), value: value.into(), ratio: String::new(), verdict: String::new() }
    }

    pub fn with(self, text: String, value: f64, expected: impl Into<Option<Expectation>>) -> Row {
        let verdict = expected.into().map(|expected| expected.verdict(Some(value))).unwrap_or_default();
        Row { ratio: text, verdict, ..self }
    }

    /// A row without a value, and the reason.
    pub fn missed(self, reason: String, expected: impl Into<Option<Expectation>>) -> Row {
        let verdict = expected.into().map(|expected| expected.verdict(None)).unwrap_or_default();
        Row { ratio: reason, verdict, ..self }
    }
}

pub fn print(title: &str, rows: &[Row]) {
    println!("\n{title}");
    let mut before = "";
    for row in rows {
        let name = if row.name == before { "" } else { row.name.as_str() };
        println!("  {name:<34} {:>22}  {:<48} {}", row.value, row.ratio, row.verdict);
        before = &row.name;
    }
}
