//! `perf.html`: one self-contained page with the plots of what was measured, and the summary below them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;

use super::host::figures::Figures;
use crate::{console, project};

/// Width and height of a plot.
const SIZE: (u32, u32) = (640, 360);

/// A curve: its name, and its points.
type Curve = (String, Vec<(f64, f64)>);

/// Writes the page.
pub(crate) fn write(reports: &Path, figures: &Figures) -> Result<()> {
    let summary = fs::read_to_string(project::root().join("perf/RESULTS.md")).unwrap_or_default();
    let mut page = String::from(
        "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\"><title>vgic: performance</title>\
         <style>body{font:15px/1.5 sans-serif;max-width:82rem;margin:2rem auto}svg{margin:.5rem}\
         pre{background:#f6f6f6;padding:1rem;overflow:auto}</style><h1>vgic: performance</h1>",
    );
    for (title, x, curves) in plots(figures) {
        page += &plot(title, x, &curves)?;
    }
    let escaped = summary.replace('&', "&amp;").replace('<', "&lt;");
    page += &format!("<pre>{escaped}</pre></html>\n");
    let path = reports.join("perf.html");
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    console::detail(format!("page {}", path.display()));
    Ok(())
}

/// Title, what is on the horizontal axis, and curves; nanoseconds are on the vertical one.
fn plots(figures: &Figures) -> Vec<(&'static str, &'static str, Vec<Curve>)> {
    let tables = [
        "radix",
        "two_loads",
        "arc_swap",
        "rwlock_btree",
        "mutex_hashmap",
    ];
    let operation = |name: &str| figures.operations.get(name).copied();
    let by_lpis = |table: &&str| -> Curve {
        let sizes = [("1", 1.0), ("1k", 1024.0), ("64k", 65536.0)];
        let point = |(size, lpis): (&str, f64)| {
            operation(&format!("lpi_lookup/{size}/borrowed/{table}")).map(|ns| (lpis, ns))
        };
        (
            table.to_string(),
            sizes.into_iter().filter_map(point).collect(),
        )
    };
    let by_pending = |what: &&str| -> Curve {
        let point = |pending: u32| {
            operation(&format!("{what}/{pending}")).map(|ns| (f64::from(pending.max(1)), ns))
        };
        let pending = [1, 4, 5, 64, 1024, 10_000];
        (
            what.to_string(),
            pending.into_iter().filter_map(point).collect(),
        )
    };
    let by_vcpus = || -> Curve {
        let point = |vcpus: u32| {
            operation(&format!("sgi/broadcast/{vcpus}")).map(|ns| (f64::from(vcpus), ns))
        };
        (
            "broadcast, for each target".to_owned(),
            [8, 64, 512].into_iter().filter_map(point).collect(),
        )
    };
    let by_threads = |load: &str| -> Curve {
        let points = (0..)
            .map(|bit| 1_u32 << bit)
            .take_while(|&threads| threads as usize <= figures.threads)
            .filter_map(|threads| {
                let rates = figures.loads.get(&format!("{load}/{threads}_threads"))?;
                Some((f64::from(threads), rates.nanoseconds()))
            });
        let name = load.rsplit('/').next().unwrap_or(load);
        (name.to_owned(), points.collect())
    };
    let lookups = tables.map(|table| by_threads(&format!("lpi_lookup/64k/borrowed/{table}")));
    let injections = ["to_one_vcpu", "to_distinct_vcpus", "while_remapping"]
        .map(|target| by_threads(&format!("inject_msi/pending/{target}")));
    let entries = ["vcpu_enter", "vcpu_exit", "vcpu_reenter"];
    vec![
        (
            "Looking up an LPI",
            "LPIs",
            tables.iter().map(by_lpis).collect(),
        ),
        ("Looking up one of 64k LPIs", "threads", lookups.into()),
        (
            "Injecting an MSI that is queued",
            "threads",
            injections.into(),
        ),
        (
            "Entering and leaving the guest",
            "interrupts pending",
            entries.iter().map(by_pending).collect(),
        ),
        ("SGI", "vCPUs", vec![by_vcpus()]),
    ]
}

fn plot(title: &str, x: &str, curves: &[Curve]) -> Result<String> {
    let points = || curves.iter().flat_map(|(_, points)| points);
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(1.0, f64::max);
    let (right, top) = (most(|point| point.0) * 1.2, most(|point| point.1) * 1.4);
    let mut svg = String::new();
    let broken = |error| anyhow!("cannot draw {title}: {error}");
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)
            .map_err(|error| broken(error.to_string()))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d((0.9..right).log_scale(), (1.0..top).log_scale())
            .map_err(|error| broken(error.to_string()))?;
        chart
            .configure_mesh()
            .x_desc(x)
            .y_desc("ns")
            .draw()
            .map_err(|error| broken(error.to_string()))?;
        for (number, (name, points)) in curves.iter().enumerate() {
            let color = Palette99::pick(number).to_rgba();
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color).point_size(3))
                .map_err(|error| broken(error.to_string()))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
        }
        chart
            .configure_series_labels()
            .border_style(BLACK)
            .background_style(WHITE.mix(0.8))
            .draw()
            .map_err(|error| broken(error.to_string()))?;
        area.present().map_err(|error| broken(error.to_string()))?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_an_svg_with_every_curve() {
        let curves = [("ours".to_owned(), vec![(1.0, 2.0), (2.0, 3.0)])];
        let svg = plot("A title", "threads", &curves).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("polyline"));
        assert!(svg.contains("ours") && svg.contains("A title"));
    }
}
