//! Line plots.

use std::ops::Range;
use std::path::Path;

use plotters::chart::ChartBuilder;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::drawing::IntoDrawingArea;
use plotters::element::{PathElement, Text};
use plotters::prelude::{IntoLogRange, SVGBackend};
use plotters::series::LineSeries;
use plotters::style::{Color, RGBColor, WHITE};

use crate::Result;
use crate::library::Library;
use crate::table;

pub struct Plot {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
}

pub struct Axis {
    pub label: &'static str,
    pub scale: Scale,
}

/// The points of a library.
pub struct Line {
    pub library: Library,
    pub points: Vec<(f64, f64)>,
    /// Whether each point was measured by itself.
    pub marked: bool,
}

#[derive(Clone, Copy)]
pub enum Scale {
    Linear,
    Logarithmic,
}

impl Plot {
    /// Writes an SVG file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let span = |axis: &Axis, value: fn(&(f64, f64)) -> f64| {
            axis.scale.span(self.lines.iter().flat_map(|line| &line.points).map(value))
        };
        let (x, y) = (span(&self.x, |point| point.0), span(&self.y, |point| point.1));
        match (self.x.scale, self.y.scale) {
            (Scale::Linear, Scale::Linear) => self.draw(path, x, y),
            (Scale::Linear, Scale::Logarithmic) => self.draw(path, x, y.log_scale()),
            (Scale::Logarithmic, Scale::Linear) => self.draw(path, x.log_scale(), y),
            (Scale::Logarithmic, Scale::Logarithmic) => self.draw(path, x.log_scale(), y.log_scale()),
        }
    }

    fn draw<X, Y>(&self, path: &Path, x: X, y: Y) -> Result<()>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let area = SVGBackend::new(path, (WIDTH + LEGEND, HEIGHT)).into_drawing_area();
        // A page may be dark.
        area.fill(&WHITE)?;
        let (area, legend) = area.split_horizontally(WIDTH);
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x, y)?;
        let label = |value: &f64| tick(*value);
        chart
            .configure_mesh()
            .x_desc(self.x.label)
            .y_desc(self.y.label)
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .light_line_style(WHITE)
            .draw()?;
        for (number, line) in self.lines.iter().enumerate() {
            let (color, size) = (color(line.library), if line.marked { 3 } else { 0 });
            let stroke = color.stroke_width(2);
            chart.draw_series(LineSeries::new(line.points.clone(), stroke).point_size(size))?;
            let y = 60 + 20 * i32::try_from(number)?;
            legend.draw(&PathElement::new([(0, y), (16, y)], stroke))?;
            legend.draw(&Text::new(line.library.to_string(), (22, y - 6), ("sans-serif", 14)))?;
        }
        area.present()?;
        Ok(())
    }
}

/// The width of the plot, the width of the legend beside it, and their height.
const WIDTH: u32 = 640;
const LEGEND: u32 = 220;
const HEIGHT: u32 = 440;

impl Scale {
    /// The part of an axis that shows all these values: from zero or a power of ten on.
    fn span(self, values: impl Iterator<Item = f64>) -> Range<f64> {
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let largest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        match self {
            Scale::Linear => 0.0..largest * 1.05,
            Scale::Logarithmic => {
                let positive = values.iter().copied().filter(|value| *value > 0.0);
                let smallest = positive.fold(largest, f64::min);
                let low = 10_f64.powf(smallest.log10().floor());
                // Two powers of ten are shown at least.
                low..largest.max(10.0 * low) * 1.25
            }
        }
    }
}

/// The text at a line of the mesh.
fn tick(value: f64) -> String {
    // Multiples of a tenth are not exact.
    let rounded = (value * 1e6).round() / 1e6;
    if rounded >= 1000.0 { table::number(rounded) } else { rounded.to_string() }
}

/// Colours that people with any kind of sight can tell apart.
fn color(library: Library) -> RGBColor {
    match library {
        Library::Lockkeeper => RGBColor(0, 114, 178),
        Library::Dropped => RGBColor(86, 180, 233),
        Library::Lingering => RGBColor(0, 158, 115),
        Library::ZookeeperClient => RGBColor(213, 94, 0),
        Library::Kazoo => RGBColor(230, 159, 0),
        Library::Curator => RGBColor(204, 121, 167),
        Library::Go => RGBColor(140, 86, 75),
        Library::Floor => RGBColor(110, 110, 110),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_axis_begins_at_zero_and_has_room_above() {
        assert_eq!(Scale::Linear.span([3.0, 100.0].into_iter()), 0.0..105.0);
    }

    #[test]
    fn a_logarithmic_axis_begins_at_a_power_of_ten_and_shows_two() {
        assert_eq!(Scale::Logarithmic.span([20.0, 400.0].into_iter()), 10.0..500.0);
        assert_eq!(Scale::Logarithmic.span([1.0, 1000.0].into_iter()), 1.0..1250.0);
        assert_eq!(Scale::Logarithmic.span([0.0, 5.0].into_iter()), 1.0..12.5);
    }

    #[test]
    fn an_axis_without_values_is_not_empty() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            let span = scale.span(std::iter::empty());
            assert!(span.start < span.end, "{span:?}");
        }
    }

    #[test]
    fn ticks_show_no_rounding_errors() {
        assert_eq!([0.1 + 0.2, 50.0, 10_000.0].map(tick), ["0.3", "50", "10,000"]);
    }

    #[test]
    fn a_plot_shows_every_library() {
        let path = std::env::temp_dir().join(format!("lockkeeper-report-{}.svg", std::process::id()));
        let line = |library, points| Line { library, points, marked: true };
        let plot = Plot {
            title: "a title".to_owned(),
            x: Axis { label: "contenders", scale: Scale::Logarithmic },
            y: Axis { label: "cycles a second", scale: Scale::Logarithmic },
            lines: vec![
                line(Library::Lockkeeper, vec![(1.0, 70.0), (1024.0, 5000.0)]),
                line(Library::Kazoo, vec![(1.0, 60.0)]),
                line(Library::Curator, Vec::new()),
            ],
        };
        plot.write(&path).expect("a plot");
        let text = std::fs::read_to_string(&path).expect("a file");
        std::fs::remove_file(&path).expect("it was written");
        for expected in
            ["a title", "contenders", "cycles a second", "lockkeeper", "kazoo", "Curator", "1,000"]
        {
            assert!(text.contains(expected), "no {expected:?} in the plot");
        }
    }
}
