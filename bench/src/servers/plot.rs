//! The plots: bars for each figure, and a curve of latency over rate.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::peers::Peer;
use super::report::{Figure, write};
use super::scenario::fan_out::Phase;

const WIDTH: u32 = 760;
const BAR: i32 = 26;
const GAP: i32 = 12;
const TEXT: RGBColor = RGBColor(70, 76, 84);
const FAINT: RGBColor = RGBColor(222, 226, 230);

fn color(peer: Peer) -> RGBColor {
    match peer {
        Peer::Ours => RGBColor(22, 110, 190),
        Peer::Hocuspocus => RGBColor(214, 120, 40),
        Peer::YWebsocket => RGBColor(190, 168, 46),
        Peer::YSweet => RGBColor(66, 148, 94),
        Peer::Relay => RGBColor(134, 142, 150),
        Peer::BatchingRelay => RGBColor(80, 88, 98),
    }
}

/// Draws a bar for each server: its median, with a line from the least to the most.
///
/// The scale is linear from 0.
///
/// # Errors
/// When the file is not writable.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "pixels"
)]
pub fn bars(path: &Path, title: &str, figure: Figure, values: &[(Peer, [f64; 3])]) -> Result<()> {
    const LEFT: i32 = 120;
    const RIGHT: i32 = 190;
    const TOP: i32 = 44;
    let height = TOP + values.len() as i32 * (BAR + GAP) + 8;
    let area = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    let draw = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        area.fill(&WHITE)?;
        let head = ("sans-serif", 17).into_font().color(&TEXT);
        area.draw(&Text::new(
            format!("{title}: {}", figure.name),
            (8, 10),
            head,
        ))?;
        let most = values.iter().map(|(_, [_, _, most])| *most);
        let most = most.fold(f64::MIN_POSITIVE, f64::max);
        let room = f64::from(WIDTH as i32 - LEFT - RIGHT);
        let x = |value: f64| LEFT + (value / most * room).round() as i32;
        let small = ("sans-serif", 14).into_font().color(&TEXT);
        for (index, (peer, [median, least, highest])) in values.iter().enumerate() {
            let y = TOP + index as i32 * (BAR + GAP);
            let middle = y + BAR / 2;
            area.draw(&Text::new(peer.name(), (8, middle - 7), small.clone()))?;
            let bar = [(LEFT, y), (x(*median).max(LEFT + 1), y + BAR)];
            area.draw(&Rectangle::new(bar, color(*peer).filled()))?;
            let line = [(x(*least), middle), (x(*highest), middle)];
            area.draw(&PathElement::new(line, TEXT))?;
            let label = write(figure.unit, *median);
            let place = (x(*highest).max(LEFT) + 8, middle - 7);
            area.draw(&Text::new(label, place, small.clone()))?;
        }
        area.present()
    };
    draw().map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// Draws the p99 of each server over its rate of delivered updates, on logarithmic scales.
///
/// # Errors
/// When the file is not writable.
pub fn curves(path: &Path, title: &str, curves: &[(Peer, Vec<Phase>)]) -> Result<()> {
    let area = SVGBackend::new(path, (WIDTH, 420)).into_drawing_area();
    let points = |phases: &[Phase]| -> Vec<(f64, f64)> {
        let held = phases.iter().filter(|phase| phase.share > 0.5);
        held.map(|phase| {
            (
                phase.delivered,
                phase.latencies.net.p99.clamp(0.1, 10_000.0),
            )
        })
        .collect()
    };
    let all: Vec<f64> = curves
        .iter()
        .flat_map(|(_, phases)| points(phases))
        .map(|(rate, _)| rate)
        .collect();
    let least = all.iter().copied().fold(f64::INFINITY, f64::min);
    let most = all.iter().copied().fold(1.0, f64::max);
    let draw = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .caption(title, ("sans-serif", 17).into_font().color(&TEXT))
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(
                (least.min(most) * 0.8..most * 1.25).log_scale(),
                (0.1..10_000.0).log_scale(),
            )?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(FAINT)
            .axis_style(TEXT)
            .label_style(("sans-serif", 13).into_font().color(&TEXT))
            .x_desc("updates delivered per second")
            .y_desc("p99, milliseconds")
            .x_label_formatter(&|value| write(super::report::Unit::PerSecond, *value))
            .y_label_formatter(&|value| format!("{value}"))
            .draw()?;
        for (peer, phases) in curves {
            let style = color(*peer).stroke_width(2);
            chart
                .draw_series(LineSeries::new(points(phases), style).point_size(3))?
                .label(peer.name())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .border_style(FAINT)
            .background_style(WHITE)
            .label_font(("sans-serif", 13).into_font().color(&TEXT))
            .draw()?;
        area.present()
    };
    draw().map_err(|error| anyhow!("{}: {error}", path.display()))
}
