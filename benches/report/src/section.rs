//! A part of the page: what was measured, a table, and a plot.

use crate::library::Library;
use crate::plot::{Axis, Line, Plot};
use crate::table::Table;

pub struct Section {
    pub title: &'static str,
    /// How it was measured, and how to read it.
    pub text: String,
    /// The text above the names of the rows.
    pub corner: &'static str,
    pub table: Table,
    /// The name of its file, without the ending.
    pub plot: Option<(&'static str, Plot)>,
}

/// A plot of the medians of a table. `x` has the value of each column that has a place on the axis.
pub fn medians(table: &Table, title: &str, x: (Axis, &[Option<f64>]), y: Axis) -> Plot {
    let line = |library: Library| {
        let points = table.medians(library).into_iter();
        let points = points.filter_map(|(column, median)| Some(((*x.1.get(column)?)?, median))).collect();
        Line { library, points, marked: true }
    };
    let lines = table.libraries().into_iter().map(line).filter(|line| !line.points.is_empty()).collect();
    Plot { title: title.to_owned(), x: x.0, y, lines }
}
