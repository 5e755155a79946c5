//! The table and the picture.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context, Result, anyhow};
use drainctl_tests::{load::Tally, rolling::Restart};
use plotters::prelude::*;

use super::{Options, Run};
use crate::page::{self, PICTURES};

/// What the picture shows of each restart: seconds from the order to replace an instance.
const SPAN: std::ops::Range<f64> = -2.0..30.0;
/// Seconds of one bar.
const BIN: f64 = 0.25;
/// Of the picture, and of each of its rows.
const WIDTH: u32 = 900;
const ROW: u32 = 130;

/// The picture, beside the page.
const PICTURE: &str = "restart.svg";

/// Prints the table, and puts both into the page if wanted; `before` is what there is to say of the machine.
pub(super) fn print(runs: &[Run], options: &Options, before: &str) -> Result<()> {
    let table = table(runs)?;
    print!("{table}");
    if let Some(out) = &options.out {
        let (rounds, picture_of) = (options.rounds, "Failed requests by seconds since the order");
        let text = format!(
            "{before}Every instance replaced {rounds} times by each way.\n\n{table}\n![{picture_of}]({PICTURES}/{PICTURE})\n"
        );
        page::put(out, "restart", &text)?;
        picture(runs, &out.join(PICTURES).join(PICTURE)).context("draw the picture")?;
    }
    Ok(())
}

fn table(runs: &[Run]) -> Result<String> {
    let mut out = String::from(
        "| way | requests | failed | refused | reset | truncated | other | connections cut | p99 in a restart | p99 else | s per instance |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for run in runs {
        let (total, failed) = (run.outcome.total(), run.outcome.failed());
        let sum = |count: fn(&Tally) -> u64| -> u64 {
            run.outcome.rows.iter().map(|row| count(&row.clients)).sum()
        };
        let refused = sum(|tally| tally.refused);
        let (reset, truncated) = (sum(|tally| tally.reset), sum(|tally| tally.truncated));
        // A connection that ended with a request on it, in whatever way.
        let cut = sum(|tally| tally.reset + tally.closed + tally.truncated);
        let other = failed - refused - reset - truncated;
        let (during, between) = latencies(run);
        let seconds: f64 = run.restarts.iter().map(|restart| restart.took.as_secs_f64()).sum();
        writeln!(
            out,
            "| {} | {total} | {failed} | {refused} | {reset} | {truncated} | {other} | {cut} | {} | {} | {:.1} |",
            run.name,
            milliseconds(&during),
            milliseconds(&between),
            seconds / run.restarts.len() as f64,
        )?;
    }
    Ok(out)
}

/// How long requests took that began in a restart, and all others; those that failed are left out.
fn latencies(run: &Run) -> (Vec<f32>, Vec<f32>) {
    let is_in = |at: f64| {
        let before = run.restarts.partition_point(|restart| restart.begun <= at);
        let last = before.checked_sub(1).map(|index| &run.restarts[index]);
        last.is_some_and(|Restart { begun, took, .. }| at < begun + took.as_secs_f64())
    };
    let answered = run.outcome.requests.iter().filter(|sample| !sample.failed);
    let (during, between): (Vec<_>, Vec<_>) = answered.partition(|sample| is_in(sample.at));
    let took =
        |samples: Vec<&drainctl_tests::load::Sample>| samples.iter().map(|s| s.took).collect();
    (took(during), took(between))
}

/// The 99th percentile.
fn milliseconds(seconds: &[f32]) -> String {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f32::total_cmp);
    let rank = (sorted.len() * 99).div_ceil(100);
    rank.checked_sub(1).map_or("-".into(), |index| format!("{:.1} ms", sorted[index] * 1e3))
}

/// Failures of all restarts, by the time since the order, each way in a row of its own.
fn picture(runs: &[Run], path: &Path) -> Result<()> {
    let size = (WIDTH, ROW * u32::try_from(runs.len())? + 40);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let title = "Failed requests a second (square root scale), by seconds since the order to replace an instance";
    let root = root.titled(title, ("sans-serif", 15))?;
    let bins: Vec<Vec<f64>> = runs.iter().map(failures).collect();
    let top = bins.iter().flatten().copied().fold(1.0, f64::max).sqrt() * 1.1;
    for ((run, bins), area) in runs.iter().zip(&bins).zip(root.split_evenly((runs.len(), 1))) {
        draw(&area, run, bins, top).map_err(|error| anyhow!("{}: {error}", run.name))?;
    }
    root.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(area: &Area<'_>, run: &Run, bins: &[f64], top: f64) -> Result<()> {
    let failed = run.outcome.failed();
    let caption = format!("{}: {failed} of {} failed", run.name, run.outcome.total());
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 14))
        .margin_right(15)
        .x_label_area_size(22)
        .y_label_area_size(50)
        .build_cartesian_2d(SPAN, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_labels(17)
        .y_labels(3)
        .y_label_formatter(&|root| format!("{:.0}", root * root))
        .draw()?;
    let colour = if run.is_ours { &GREEN } else { &RED };
    chart.draw_series(bins.iter().enumerate().filter(|(_, rate)| **rate > 0.0).map(
        |(bin, rate)| {
            let left = SPAN.start + bin as f64 * BIN;
            Rectangle::new([(left, 0.0), (left + BIN, rate.sqrt())], colour.filled())
        },
    ))?;
    Ok(())
}

/// Failures a second in each bin, on the average of all restarts.
fn failures(run: &Run) -> Vec<f64> {
    let mut bins = vec![0.0; ((SPAN.end - SPAN.start) / BIN) as usize];
    for at in &run.outcome.failed_at {
        // What fails shortly before an order has nothing to do with the restart before it.
        let next = run.restarts.partition_point(|restart| restart.begun + SPAN.start <= *at);
        let Some(index) = next.checked_sub(1) else { continue };
        let bin = (at - run.restarts[index].begun - SPAN.start) / BIN;
        if let Some(count) = bins.get_mut(bin as usize) {
            *count += 1.0 / BIN / run.restarts.len() as f64;
        }
    }
    bins
}
