//! The tables and pictures of cost against size.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;
use plotters::prelude::*;

use super::Point;
use crate::{
    page::{self, PICTURES},
    table::number,
};

/// Of a picture.
const SIZE: (u32, u32) = (900, 320);
const COLOURS: [RGBColor; 3] = [BLUE, GREEN, RED];

/// A line of a picture: its name, and its value at a size.
type Series = (&'static str, fn(&Point) -> f64);

const DELAYS: [Series; 3] = [
    ("start a drain", |point| point.start),
    ("prove zero", |point| point.prove),
    ("list", |point| point.list),
];
const MEMORY: [Series; 2] = [
    ("nothing to do", |point| point.resident),
    ("connections churn", |point| point.churning.resident),
];

/// Prints the tables, and puts them into the page if wanted.
pub(super) fn print(
    machine: &str,
    flows: &[Point],
    services: &[Point],
    out: Option<&Path>,
) -> Result<()> {
    let mut text = machine.to_owned();
    for (what, points, list) in
        [("connections", flows, "list them"), ("services", services, "list them")]
    {
        let _ = write!(text, "\n{}", table(what, list, points)); // Writing to a string cannot fail.
        let file = format!("scale-{what}.svg");
        let _ = write!(text, "\n![Cost against the number of {what}]({PICTURES}/{file})\n");
    }
    print!("{text}");
    let Some(out) = out else { return Ok(()) };
    page::put(out, "scale", &text)?;
    for (what, points) in [("connections", flows), ("services", services)] {
        picture(what, points, &out.join(PICTURES).join(format!("scale-{what}.svg")))?;
    }
    Ok(())
}

fn table(what: &str, list: &str, points: &[Point]) -> String {
    let mut out = format!(
        "| {what} | start a drain | prove zero | {list} | agent, nothing to do | agent, connections churn | churn |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for point in points {
        let ms = |value| number(value, "ms");
        let used =
            |memory, cpu| format!("{}, {}", number(memory, "MiB"), number(cpu, "% of a CPU"));
        let cells = [
            point.size.to_string(),
            ms(point.start),
            ms(point.prove),
            ms(point.list),
            used(point.resident, point.idle),
            used(point.churning.resident, point.churning.cpu),
            number(point.churning.rate, "/s"),
        ];
        out.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    out
}

fn picture(what: &str, points: &[Point], path: &Path) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(SIZE.0 / 2);
    draw(&left, &format!("milliseconds, by {what}"), points, &DELAYS)?;
    draw(&right, &format!("MiB of the agent, by {what}"), points, &MEMORY)?;
    root.present()?;
    Ok(())
}

/// Both axes are logarithmic: what is in proportion to the size is a straight line that rises as fast as it goes.
fn draw(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    caption: &str,
    points: &[Point],
    series: &[Series],
) -> Result<()> {
    let values = points.iter().flat_map(|point| series.iter().map(|(_, of)| of(point)));
    let (low, high) =
        values.fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    let first = points.first().map_or(1.0, |point| point.size as f64);
    let last = points.last().map_or(1.0, |point| point.size as f64);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 15))
        .margin(10)
        .x_label_area_size(25)
        .y_label_area_size(50)
        .build_cartesian_2d(
            (first..last * 1.1).log_scale(),
            (low.max(0.01) / 1.5..high.max(0.1) * 2.0).log_scale(),
        )?;
    chart.configure_mesh().light_line_style(TRANSPARENT).draw()?;
    for ((name, of), colour) in series.iter().zip(&COLOURS) {
        let line = points.iter().map(|point| (point.size as f64, of(point).max(0.01)));
        let line: Vec<_> = line.collect();
        chart.draw_series(line.iter().map(|at| Circle::new(*at, 3, colour.filled())))?;
        chart
            .draw_series([PathElement::new(line, colour)])?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 15, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
