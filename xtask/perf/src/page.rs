//! `perf.html`: one self-contained page with plots of the last figures, and the summary below them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use pulldown_cmark::{Options, Parser, html};

use super::curves::{Curve, Plot};
use super::el2;
use super::host::figures::{self, Figures};
use super::lines;
use super::report;
use xtask::{console, project};

/// The head of the page, which loads nothing from anywhere.
const HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>vgic: performance</title>
<meta name=\"viewport\" content=\"width=device-width\">
<meta name=\"color-scheme\" content=\"light\">
<style>
body { font: 15px/1.5 sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem;
       color: #24292f; background: #fff }
.plots { display: flex; flex-wrap: wrap; gap: 1rem }
svg { border: 1px solid #d8dee4; border-radius: 4px; max-width: 100%; height: auto }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { border: 1px solid #d8dee4; padding: .2rem .6rem }
th { background: #f6f8fa; text-align: left }
tr:nth-child(even) td { background: #fafbfc }
code { background: #f6f8fa; padding: 0 .2rem }
</style></head><body>
";

/// Writes the page.
pub(crate) fn write(reports: &Path) -> Result<()> {
    let mut page = HEAD.to_owned();
    page += "<h1>vgic: performance</h1>\n";
    if let Some(el2) = report::section::<el2::table::Outcome>(reports, "el2") {
        page += "<h2>An exit, beside Linux KVM</h2>\n";
        page += &el2::plot::bars(&el2.outcome)?;
    }
    if let Some(measured) = report::section::<lines::table::Outcome>(reports, "lines") {
        page += "<h2>Cache lines between CPUs</h2>\n<div class=\"plots\">\n";
        for plot in lines::summary::plots(&measured.outcome) {
            page += &plot.svg()?;
        }
        page += "</div>\n";
    }
    if let Some(host) = report::section::<figures::Outcome>(reports, "host") {
        page += "<h2>The library on the host</h2>\n<div class=\"plots\">\n";
        for plot in plots(&host.outcome.figures) {
            page += &plot.svg()?;
        }
        page += "</div>\n";
    }
    let summary = fs::read_to_string(project::root().join("perf/RESULTS.md")).unwrap_or_default();
    html::push_html(&mut page, Parser::new_ext(&summary, Options::ENABLE_TABLES));
    page += "</body></html>\n";
    fs::create_dir_all(reports)?;
    let path = reports.join("perf.html");
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    console::detail(format!("page {}", path.display()));
    Ok(())
}

/// Plots the cost against LPIs, threads, pending interrupts and vCPUs.
fn plots(figures: &Figures) -> Vec<Plot> {
    const ALONE: &str = "ns for one, the best of many";
    const TOGETHER: &str = "ns of a thread's CPU time for one";
    let tables = [
        ("radix", "vgic: radix under an epoch"),
        ("two_loads", "two loads, nothing reclaimed"),
        ("arc_swap", "arc-swap for each"),
        ("rwlock_btree", "RwLock, B-tree"),
        ("mutex_hashmap", "Mutex, hash table"),
        ("spin_list", "spin lock, list"),
    ];
    let by_lpis = tables.map(|(table, name)| {
        let sizes = [("1", 1.0), ("1k", 1024.0), ("64k", 65536.0)];
        operations(
            figures,
            name,
            sizes.map(|(size, lpis)| (format!("lpi_lookup/{size}/borrowed/{table}"), lpis)),
        )
    });
    let lookups = tables
        .map(|(table, name)| loads(figures, name, &format!("lpi_lookup/64k/borrowed/{table}")));
    let injections = [
        ("to_distinct_vcpus", "each thread to a vCPU of its own"),
        ("to_one_vcpu", "all to one vCPU"),
        ("while_moving", "while MOVI moves other LPIs"),
        ("while_remapping", "while other LPIs are mapped anew"),
    ]
    .map(|(target, name)| loads(figures, name, &format!("inject_msi/pending/{target}")));
    let stress = "lpi_stress/256/256/16/spread";
    let delivered = Curve {
        name: "delivered".to_owned(),
        points: rates(figures, stress, |rates| rates.delivered),
    };
    let by_pending = [
        ("vcpu_enter", "enter, registers free"),
        ("vcpu_exit", "exit, all handled"),
        ("vcpu_reenter", "exit and enter, nothing handled"),
    ]
    .map(|(what, name)| {
        let pending = [1_u32, 4, 5, 64, 1024, 10_000];
        operations(
            figures,
            name,
            pending.map(|pending| (format!("{what}/{pending}"), f64::from(pending))),
        )
    });
    let broadcast = operations(
        figures,
        "to all others, for each target",
        [8_u32, 64, 512, 4095].map(|vcpus| (format!("sgi/broadcast/{vcpus}"), f64::from(vcpus))),
    );
    let unicast = operations(
        figures,
        "one write for each target",
        [("sgi/unicast/each_of_512".to_owned(), 512.0)],
    );
    let plot = |title, x, y, curves: Vec<Curve>| Plot {
        title,
        x,
        y,
        curves,
    };
    let devices = "threads that inject, and as many that run vCPUs";
    vec![
        plot(
            "Looking up an LPI",
            "LPIs in the table",
            ALONE,
            by_lpis.into(),
        ),
        plot(
            "Looking up one of 64k LPIs",
            "threads",
            TOGETHER,
            lookups.into(),
        ),
        plot(
            "Injecting an MSI that is queued",
            "threads",
            TOGETHER,
            injections.into(),
        ),
        plot(
            "256 devices of 16 events to 256 vCPUs",
            devices,
            TOGETHER,
            vec![loads(figures, "accepted", stress), delivered],
        ),
        plot(
            "Entering and leaving the guest",
            "LPIs pending",
            ALONE,
            by_pending.into(),
        ),
        plot("Sending an SGI", "vCPUs", ALONE, vec![broadcast, unicast]),
    ]
}

/// Makes a curve of the times of operations, as far as they were measured.
fn operations<const N: usize>(figures: &Figures, name: &str, at: [(String, f64); N]) -> Curve {
    let point = |(operation, x): (String, f64)| Some((x, *figures.operations.get(&operation)?));
    Curve {
        name: name.to_owned(),
        points: at.into_iter().filter_map(point).collect(),
    }
}

/// Makes a curve of the times of a load by numbers of threads.
fn loads(figures: &Figures, name: &str, load: &str) -> Curve {
    Curve {
        name: name.to_owned(),
        points: rates(figures, load, |rates| rates.accepted),
    }
}

/// Works out nanoseconds of one thread, by numbers of threads.
fn rates(figures: &Figures, load: &str, of: fn(&figures::Rates) -> f64) -> Vec<(f64, f64)> {
    let named = |(name, rates): (&String, &figures::Rates)| {
        let threads = name.strip_prefix(load)?.strip_prefix('/')?;
        let threads: u32 = threads.strip_suffix("_threads")?.parse().ok()?;
        let rate = of(rates);
        (rate > 0.0).then(|| (f64::from(threads), f64::from(threads) * 1e9 / rate))
    };
    let mut points: Vec<_> = figures.loads.iter().filter_map(named).collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    points
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use figures::Rates;

    fn rates(threads: u32, accepted: f64) -> Rates {
        Rates {
            threads,
            accepted,
            delivered: 0.0,
        }
    }

    #[test]
    fn curves_have_a_point_for_each_number_of_threads() {
        let loads = [
            ("inject_msi/pending/to_one_vcpu/16_threads", 16, 16e7),
            ("inject_msi/pending/to_one_vcpu/2_threads", 2, 1e8),
            ("inject_msi/pending/to_one_vcpu_more/4_threads", 4, 1e8),
        ];
        let figures = Figures {
            threads: 16,
            counts: BTreeMap::new(),
            memory: Vec::new(),
            operations: BTreeMap::from([("vcpu_enter/5".to_owned(), 100.0)]),
            pairs: BTreeMap::new(),
            loads: (loads.into_iter())
                .map(|(name, threads, rate)| (name.to_owned(), rates(threads, rate)))
                .collect(),
        };
        let curve = super::loads(&figures, "x", "inject_msi/pending/to_one_vcpu");
        assert_eq!(curve.points, [(2.0, 20.0), (16.0, 100.0)]);
        let plots = plots(&figures);
        let points = |plot: &Plot| plot.curves.iter().map(|curve| curve.points.len()).sum();
        let points: Vec<usize> = plots.iter().map(points).collect();
        assert_eq!(points, [0, 0, 2, 0, 1, 0]);
    }
}
