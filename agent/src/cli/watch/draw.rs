//! How it looks: plain text in 80 columns, where colour says nothing that words do not say.

use std::time::Instant;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table, TableState, Wrap},
};

use super::{
    rates::spark,
    state::{Screen, name},
};
use crate::{
    api::protocol::{DrainStatus, ServiceStatus, StateName},
    cli::{flows, leaving, text, waiting},
};

const SPARK: usize = 7;
const HELP: &str = "↑↓ choose   enter all of it   / filter   q quit";

/// Draws everything.
pub(super) fn screen(screen: &Screen, frame: &mut Frame, now: Instant) {
    let lower = if screen.is_wide() { Constraint::Fill(6) } else { Constraint::Fill(1) };
    let [top, upper, lower, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Fill(1),
        lower,
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(headline(screen, now), top);
    services(screen, frame, upper);
    if let Some(service) = screen.service() {
        details(screen, service, frame, lower);
    }
    let line = match (screen.typed(), screen.filter()) {
        (Some(typed), _) => format!("/{typed}█   enter keep it   esc all"),
        (None, "") => HELP.to_owned(),
        (None, filter) => format!("only /{filter}   esc all   {HELP}"),
    };
    frame.render_widget(Paragraph::new(line), bottom);
}

fn headline(screen: &Screen, now: Instant) -> Paragraph<'static> {
    if let Some((since, why)) = screen.outage(now) {
        let since = text::duration(since.as_secs() * 1000);
        let line = format!("NO CONNECTION for {since}: what is below is as old. {why}");
        return Paragraph::new(line).style(Style::new().add_modifier(Modifier::REVERSED));
    }
    let (services, draining, late) = screen.totals();
    let late = if late > 0 { format!(", {late} PAST THE DEADLINE") } else { String::new() };
    let line = format!("drainctl   {services} services, {draining} draining{late}   live");
    Paragraph::new(line).style(Style::new().add_modifier(Modifier::BOLD))
}

fn services(screen: &Screen, frame: &mut Frame, area: Rect) {
    let rate = |rates| {
        let (line, number) = spark(rates, SPARK);
        Cell::from(format!("{line} {number:>5}"))
    };
    let row = |service: &&ServiceStatus| {
        let rates = screen.rates(&service.id);
        let unsure = if service.unknown.is_some() { "?" } else { "" };
        Row::new([
            Cell::from(name(service)),
            Cell::from(service.state.as_str()).style(style(screen, service.state)),
            Cell::from(format!("{:>6}{unsure}", service.flows)),
            rates.map_or_else(Cell::default, |rates| rate(&rates.arrivals)),
            rates.map_or_else(Cell::default, |rates| rate(&rates.refusals)),
            Cell::from(deadline(service)),
        ])
    };
    let shown = screen.shown();
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(13),
        Constraint::Length(13),
        Constraint::Length(8),
    ];
    let head = ["SERVICE", "STATE", " FLOWS", "NEW/s", "REFUSED/s", "DEADLINE"];
    let table = Table::new(shown.iter().map(row), widths)
        .header(Row::new(head).style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .highlight_symbol("> ");
    let mut state = TableState::default().with_selected(screen.row());
    frame.render_stateful_widget(table, area, &mut state);
}

fn deadline(service: &ServiceStatus) -> String {
    match &service.drain {
        None => "-".into(),
        Some(drain) if drain.deadline_in_ms == 0 => "passed".into(),
        Some(drain) => text::duration(drain.deadline_in_ms),
    }
}

fn details(screen: &Screen, service: &ServiceStatus, frame: &mut Frame, area: Rect) {
    let width = usize::from(area.width);
    let title = format!("── {} ", name(service));
    let mut lines = vec![Line::from(format!("{title:─<width$}"))];
    match &service.drain {
        Some(drain) => course(screen, service, drain, width, &mut lines),
        None => lines.push(Line::from("serving: no drain is under way")),
    }
    lines.extend(
        waiting::summary(service).into_iter().chain(waiting::registries(service)).map(Line::from),
    );
    if let Some(why) = &service.unknown {
        lines.push(Line::from(format!("the count cannot be verified: {why}")));
    }
    if let Some(why) = screen.unlisted() {
        lines.push(Line::from(format!("its connections cannot be listed: {why}")));
    }
    let blocking: Vec<_> = screen.blocking().cloned().collect();
    if !blocking.is_empty() {
        let room = usize::from(area.height).saturating_sub(lines.len() + 2).max(1);
        let listed = &blocking[..blocking.len().min(room)];
        lines.extend(flows::table(listed).lines().map(|line| Line::from(line.to_owned())));
        let hidden = blocking.len() - listed.len();
        if hidden > 0 {
            lines.push(Line::from(format!("and {hidden} more")));
        }
    }
    let long = lines.iter().take_while(|_| screen.is_wide()).any(|line| line.width() > width);
    let paragraph = Paragraph::new(lines);
    let paragraph = if long { paragraph.wrap(Wrap { trim: false }) } else { paragraph };
    frame.render_widget(paragraph, area);
}

/// The drain from its beginning until now, and what has become of its connections.
fn course(
    screen: &Screen,
    service: &ServiceStatus,
    drain: &DrainStatus,
    width: usize,
    lines: &mut Vec<Line<'static>>,
) {
    let until = drain.history.iter().skip(1).map(|each| each.ago_ms).chain([0]);
    let stays: Vec<(StateName, u64)> = drain
        .history
        .iter()
        .zip(until)
        .map(|(each, until)| (each.state, each.ago_ms.saturating_sub(until)))
        .collect();
    lines.push(bar(screen, &stays, drain.deadline_in_ms, width));
    let words = |(state, ms): &(StateName, u64)| {
        format!("{} {} {}", sign(*state), state.as_str(), text::duration(*ms))
    };
    lines.push(Line::from(stays.iter().map(words).collect::<Vec<_>>().join("   ")));
    let verdict = match service.state {
        StateName::Drained => "zero is proven: it is safe to stop the server".to_owned(),
        _ => format!(
            "left: {}, {}, {} lingering; refused {}",
            text::count(service.flows, "connection"),
            text::count(service.handshakes, "handshake"),
            service.lingering,
            service.rejected
        ),
    };
    lines.push(Line::from(verdict));
    let summary = leaving::summary(service);
    lines.extend(summary.into_iter().chain(leaving::handed_over(service)).map(Line::from));
}

/// Each state as long as it was, and then what is left until the deadline.
fn bar(screen: &Screen, stays: &[(StateName, u64)], rest_ms: u64, width: usize) -> Line<'static> {
    let total = stays.iter().map(|(_, ms)| ms).sum::<u64>() + rest_ms;
    let mut spans = Vec::new();
    let mut used = 0;
    for (state, ms) in stays {
        let cells = (*ms as f64 / total.max(1) as f64 * width as f64).round() as usize;
        let cells = cells.max(1).min(width - used.min(width));
        used += cells;
        spans.push(Span::styled(sign(*state).repeat(cells), style(screen, *state)));
    }
    spans.push(Span::raw("·".repeat(width.saturating_sub(used))));
    Line::from(spans)
}

fn sign(state: StateName) -> &'static str {
    match state {
        StateName::Serving => " ",
        StateName::Settling => "░",
        StateName::Rejecting => "▒",
        StateName::Drained => "█",
        StateName::Expired => "!",
    }
}

fn style(screen: &Screen, state: StateName) -> Style {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    match state {
        StateName::Serving => Style::new(),
        _ if !screen.has_colour() => bold,
        StateName::Settling => bold.fg(Color::Cyan),
        StateName::Rejecting => bold.fg(Color::Yellow),
        StateName::Drained => bold.fg(Color::Green),
        StateName::Expired => bold.fg(Color::Red),
    }
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
