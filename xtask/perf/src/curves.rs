//! A plot of cost against something, as SVG: both axes logarithmic, one curve for each name.

use anyhow::{Result, anyhow};
use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;

/// Width and height of a plot.
const SIZE: (u32, u32) = (640, 400);

/// Curves can be told apart by these, on white, also by those who see no red or no green.
const COLORS: [RGBColor; 7] = [
    RGBColor(0x0b, 0x5c, 0xad),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x8c, 0x6a),
    RGBColor(0xb8, 0x4b, 0x8f),
    RGBColor(0x7a, 0x7a, 0x7a),
    RGBColor(0xb3, 0x8f, 0x00),
    RGBColor(0x3f, 0xa9, 0xd9),
];

/// A curve: its name, and its points (x, y).
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A plot.
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    /// The name of the horizontal axis.
    pub(crate) x: &'static str,
    /// The name of the vertical axis, with its unit.
    pub(crate) y: &'static str,
    pub(crate) curves: Vec<Curve>,
}

impl Plot {
    /// Draws the plot as SVG; an empty text if there is nothing to draw.
    pub(crate) fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        if self.curves.iter().all(|curve| curve.points.is_empty()) {
            return Ok(svg);
        }
        self.draw(SVGBackend::with_string(&mut svg, SIZE))
            .map_err(|error| anyhow!("cannot draw {}: {error}", self.title))?;
        Ok(svg)
    }

    /// Draws the plot on a backend.
    fn draw(&self, backend: SVGBackend<'_>) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let (across, up) = (
            self.range(2.0, |point| point.0),
            self.range(10.0, |point| point.1),
        );

        let area = backend.into_drawing_area();
        area.fill(&WHITE)?;
        // The curves' names stand above them, a line each: that part of the axis is left to them.
        let curves = || self.curves.iter().filter(|curve| !curve.points.is_empty());
        let names = (16.0 * curves().count() as f64 + 16.0) / 270.0;
        let room = (up.1 / up.0).powf(names / (1.0 - names));
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(
                (across.0 / 1.15..across.1 * 1.15).log_scale(),
                (up.0..up.1 * room).log_scale(),
            )?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .axis_desc_style(("sans-serif", 14))
            .label_style(("sans-serif", 12))
            .x_label_formatter(&|x| number(*x))
            .y_label_formatter(&|y| number(*y))
            .bold_line_style(BLACK.mix(0.15))
            .light_line_style(BLACK.mix(0.04))
            .draw()?;

        for (curve, color) in curves().zip(COLORS.into_iter().cycle()) {
            let points = || curve.points.iter().copied();
            chart
                .draw_series(LineSeries::new(points(), color.stroke_width(2)))?
                .label(&curve.name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
                });
            chart.draw_series(points().map(|point| Circle::new(point, 4, color.filled())))?;
        }

        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(("sans-serif", 13))
            .border_style(BLACK.mix(0.2))
            .background_style(WHITE.mix(0.9))
            .draw()?;
        area.present()
    }

    /// Returns the range of a coordinate, widened to a factor of `apart` if it is narrower, so that
    /// the axis has numbers on it.
    fn range(&self, apart: f64, of: fn(&(f64, f64)) -> f64) -> (f64, f64) {
        let values = self.curves.iter().flat_map(|curve| &curve.points).map(of);
        let (least, most) = values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        let missing = (apart * least / most).max(1.0).sqrt();
        (least / missing / 1.1, most * missing * 1.1)
    }
}

/// Formats a number on an axis.
fn number(value: f64) -> String {
    match value {
        1e6.. => format!("{:.0}M", value / 1e6),
        1e5.. => format!("{:.0}k", value / 1e3),
        10.0.. => format!("{value:.0}"),
        _ => {
            let text = format!("{value:.1}");
            text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        Plot {
            title: "A title",
            x: "threads",
            y: "ns",
            curves: vec![Curve {
                name: "ours".to_owned(),
                points,
            }],
        }
    }

    #[test]
    fn a_plot_is_an_svg_with_every_curve_and_labelled_axes() {
        let svg = plot(vec![(1.0, 2.0), (2.0, 3.0)]).svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("polyline"));
        for text in ["ours", "A title", "threads", "ns"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn equal_values_and_none_are_drawn_too() {
        assert!(plot(vec![(1.0, 2.0)]).svg().unwrap().contains("circle"));
        assert_eq!(plot(Vec::new()).svg().unwrap(), "");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [1.0, 2.5, 64.0, 65536.0, 1e6].map(number),
            ["1", "2.5", "64", "65536", "1M"]
        );
    }
}
