//! The plots of the page.

use std::fmt::Write;

use anyhow::Result;

use crate::bench::plot::{FAINT, GRID, INK, MARGIN, document, line, text};

use super::results::{Results, Spread};

/// Names in results, names for readers, colours (of Okabe and Ito's set).
pub(super) const CONTROLLERS: [(&str, &str, &str); 3] = [
    ("cubic", "CUBIC", "#0072b2"),
    ("newreno", "NewReno", "#e69f00"),
    ("bbr", "BBR", "#009e73"),
];
/// The second of two flows with the same controller.
const SECOND: &str = "#59636e";

/// The name for readers.
pub(super) fn shown(name: &str) -> &str {
    let known = CONTROLLERS.iter().find(|it| it.0 == name);
    known.map_or(name, |it| it.1)
}

fn colour(name: &str) -> &'static str {
    let known = CONTROLLERS.iter().find(|it| it.0 == name);
    known.map_or(INK, |it| it.2)
}

/// One column of bars.
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) metric: &'static str,
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) log: bool,
    /// With the values as readers want them.
    pub(super) ticks: &'static [(f64, &'static str)],
}

/// Bars of every network and controller: the median, and whiskers from the lowest to the highest seed.
pub(super) fn bars(
    title: &str,
    subtitle: &str,
    results: &Results,
    columns: &[Column],
) -> Result<String> {
    const LABELS: f64 = 138.0;
    const WIDTH: f64 = 215.0;
    const GAP: f64 = 36.0;
    const BAR: f64 = 11.0;
    const STEP: f64 = 13.0;
    let group = 3.0 * STEP + 10.0;
    let top = MARGIN + 92.0;
    let bottom = top + results.networks.len() as f64 * group;
    let mut body = legend(MARGIN + 48.0);
    let mut description = String::new();
    for (index, column) in columns.iter().enumerate() {
        let left = MARGIN + LABELS + index as f64 * (WIDTH + GAP);
        let x = |value: f64| {
            let share = if column.log {
                (value.max(column.from) / column.from).ln() / (column.to / column.from).ln()
            } else {
                (value - column.from) / (column.to - column.from)
            };
            left + share.clamp(0.0, 1.0) * WIDTH
        };
        text(
            &mut body,
            left,
            top - 12.0,
            "start",
            INK,
            13,
            "600",
            column.title,
        );
        for (tick, label) in column.ticks {
            line(&mut body, (x(*tick), top), (x(*tick), bottom), GRID, "1");
            text(
                &mut body,
                x(*tick),
                bottom + 15.0,
                "middle",
                FAINT,
                11,
                "400",
                label,
            );
        }
        let _ = write!(description, "{}: ", column.title);
        for (row, network) in results.networks.iter().enumerate() {
            let start = top + row as f64 * group + 5.0;
            if index == 0 {
                let middle = start + 1.5 * STEP + 4.0;
                text(
                    &mut body,
                    left - 10.0,
                    middle,
                    "end",
                    INK,
                    12,
                    "400",
                    &network.title,
                );
            }
            let _ = write!(description, "{}", network.title);
            for (bar, (name, shown, fill)) in CONTROLLERS.iter().enumerate() {
                let Spread { median, min, max } =
                    results.get("link", &network.name, &[name], column.metric)?;
                let y = start + bar as f64 * STEP;
                let _ = writeln!(
                    body,
                    "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>",
                    (x(median) - left).max(1.0)
                );
                let middle = y + BAR / 2.0;
                if x(max) - x(min) > 1.0 {
                    line(&mut body, (x(min), middle), (x(max), middle), INK, "1.2");
                    for end in [x(min), x(max)] {
                        line(
                            &mut body,
                            (end, middle - 3.0),
                            (end, middle + 3.0),
                            INK,
                            "1.2",
                        );
                    }
                }
                let _ = write!(description, " {shown} {median}");
            }
            description += "; ";
        }
    }
    let count = columns.len() as f64;
    let width = MARGIN * 2.0 + LABELS + count * WIDTH + (count - 1.0) * GAP + 8.0;
    Ok(document(
        title,
        subtitle,
        description.trim_end(),
        width,
        bottom + 34.0,
        &body,
    ))
}

fn legend(y: f64) -> String {
    let mut body = String::new();
    let mut x = MARGIN;
    for (_, shown, fill) in CONTROLLERS {
        key(&mut body, (x, y), shown, fill);
        x += 92.0;
    }
    body
}

fn key(body: &mut String, at: (f64, f64), label: &str, fill: &str) {
    let _ = writeln!(
        body,
        "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{fill}\"/>",
        at.0, at.1
    );
    text(
        body,
        at.0 + 17.0,
        at.1 + 10.0,
        "start",
        INK,
        12,
        "400",
        label,
    );
}

/// A line in a chart.
pub(super) struct Curve {
    pub(super) label: String,
    pub(super) colour: &'static str,
    pub(super) goodput: Vec<f64>,
    pub(super) window: Vec<f64>,
}

/// What happens over time: goodput on the left, congestion windows on the right.
pub(super) struct Row {
    pub(super) title: String,
    pub(super) curves: Vec<Curve>,
}

/// Curves of two flows.
pub(super) fn two(
    results: &Results,
    group: &str,
    scenario: &str,
    controllers: &[&str; 2],
    title: String,
    labels: Option<[&str; 2]>,
) -> Result<Row> {
    let flows = results.series(group, scenario, controllers)?;
    let same = controllers[0] == controllers[1];
    let curves = flows.into_iter().zip(controllers).enumerate();
    let curves = curves.map(|(index, (flow, name))| Curve {
        label: match labels {
            Some(labels) => labels[index].to_owned(),
            None if same => format!("{} {}", shown(name), index + 1),
            None => shown(name).to_owned(),
        },
        colour: if same && index == 1 {
            SECOND
        } else {
            colour(name)
        },
        goodput: flow.goodput,
        window: flow.window,
    });
    Ok(Row {
        title,
        curves: curves.collect(),
    })
}

/// Curves of every controller on its own.
pub(super) fn each(results: &Results, group: &str, scenario: &str, title: &str) -> Result<Row> {
    let mut curves = Vec::new();
    for (name, shown, colour) in CONTROLLERS {
        for flow in results.series(group, scenario, &[name])? {
            curves.push(Curve {
                label: shown.to_owned(),
                colour,
                goodput: flow.goodput,
                window: flow.window,
            });
        }
    }
    Ok(Row {
        title: title.to_owned(),
        curves,
    })
}

/// Entries of a series that one point of a curve is the mean of.
const SMOOTH: usize = 5;

/// Charts of what happens over time.
pub(super) fn series(title: &str, subtitle: &str, rows: &[Row]) -> String {
    const WIDTH: f64 = 390.0;
    const HEIGHT: f64 = 108.0;
    const AXIS: f64 = 46.0;
    let mut body = String::new();
    let mut y = MARGIN + 50.0;
    let mut description = String::new();
    for row in rows {
        text(
            &mut body,
            MARGIN,
            y + 10.0,
            "start",
            INK,
            13,
            "600",
            &row.title,
        );
        let mut x = MARGIN + AXIS + WIDTH + AXIS;
        for curve in &row.curves {
            key(&mut body, (x, y), &curve.label, curve.colour);
            x += 120.0;
        }
        y += 32.0;
        let _ = write!(description, "{}. ", row.title);
        for (chart, unit) in ["Mbit/s", "window in kB"].into_iter().enumerate() {
            let left = MARGIN + AXIS + chart as f64 * (WIDTH + AXIS + 16.0);
            let values: Vec<Vec<f64>> = row
                .curves
                .iter()
                .map(|it| means(if chart == 0 { &it.goodput } else { &it.window }))
                .collect();
            let highest = values.iter().flatten().copied().fold(1.0, f64::max);
            let step = tick(highest);
            let end = (highest / step).ceil() * step;
            let points = values.iter().map(Vec::len).max().unwrap_or(1);
            let seconds = (points * SMOOTH) as f64 / 10.0;
            let across = |second: f64| left + second / seconds * WIDTH;
            let up = |value: f64| y + HEIGHT * (1.0 - value / end);
            let mut value = 0.0;
            while value <= end + step / 2.0 {
                line(
                    &mut body,
                    (left, up(value)),
                    (left + WIDTH, up(value)),
                    GRID,
                    "1",
                );
                let label = format!("{value}");
                text(
                    &mut body,
                    left - 6.0,
                    up(value) + 4.0,
                    "end",
                    FAINT,
                    11,
                    "400",
                    &label,
                );
                value += step;
            }
            text(&mut body, left, y - 7.0, "start", FAINT, 11, "400", unit);
            let every = if seconds > 50.0 { 10.0 } else { 5.0 };
            let mut second = 0.0;
            while second <= seconds + 0.01 {
                let label = format!("{second} s");
                text(
                    &mut body,
                    across(second),
                    y + HEIGHT + 15.0,
                    "middle",
                    FAINT,
                    11,
                    "400",
                    &label,
                );
                second += every;
            }
            for (curve, values) in row.curves.iter().zip(&values) {
                let mut path = String::new();
                for (index, value) in values.iter().enumerate() {
                    let at = (index as f64 + 0.5) * SMOOTH as f64 / 10.0;
                    let _ = write!(path, "{:.1},{:.1} ", across(at), up(*value));
                }
                let _ = writeln!(
                    body,
                    "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\" \
                     stroke-linejoin=\"round\"/>",
                    path.trim_end(),
                    curve.colour
                );
            }
        }
        y += HEIGHT + 38.0;
    }
    let width = MARGIN * 2.0 + 2.0 * (WIDTH + AXIS) + 32.0;
    document(title, subtitle, description.trim_end(), width, y, &body)
}

fn means(values: &[f64]) -> Vec<f64> {
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    values.chunks(SMOOTH).map(mean).collect()
}

/// A distance between ticks that leaves two to five of them.
fn tick(highest: f64) -> f64 {
    let mut step = 1.0;
    for factor in [2.0, 2.5, 2.0].into_iter().cycle() {
        if highest / step <= 5.0 {
            break;
        }
        step *= factor;
    }
    step
}

/// How two flows share, and how long packets wait meanwhile: a column for each buffer.
pub(super) fn shares(
    title: &str,
    subtitle: &str,
    columns: &[(&str, &str)],
    rows: &[(&str, &[&str; 2], String)],
    results: &Results,
) -> Result<String> {
    const LABELS: f64 = 170.0;
    const WIDTH: f64 = 180.0;
    const WAIT: f64 = 74.0;
    const ROW: f64 = 26.0;
    let top = MARGIN + 92.0;
    let mut body = legend(MARGIN + 48.0);
    let mut description = String::new();
    for (index, (scenario, head)) in columns.iter().enumerate() {
        let left = MARGIN + LABELS + index as f64 * (WIDTH + WAIT);
        text(&mut body, left, top - 12.0, "start", INK, 13, "600", head);
        let _ = write!(description, "{head}: ");
        for (row, (group, controllers, label)) in rows.iter().enumerate() {
            let y = top + row as f64 * ROW;
            if index == 0 {
                text(
                    &mut body,
                    left - 10.0,
                    y + 15.0,
                    "end",
                    INK,
                    12,
                    "400",
                    label,
                );
            }
            let share = results.get(group, scenario, *controllers, "share_a")?;
            let wait = results.get(group, scenario, *controllers, "wait_mean")?;
            let first = WIDTH * share.median / 100.0;
            let same = controllers[0] == controllers[1];
            let second = if same { SECOND } else { colour(controllers[1]) };
            for (from, width, fill) in [
                (0.0, first, colour(controllers[0])),
                (first, WIDTH - first, second),
            ] {
                let _ = writeln!(
                    body,
                    "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"18\" fill=\"{fill}\"/>",
                    left + from,
                    y + 2.0
                );
            }
            let (from, to) = (
                left + WIDTH * share.min / 100.0,
                left + WIDTH * share.max / 100.0,
            );
            if to - from > 1.0 {
                line(
                    &mut body,
                    (from, y + 11.0),
                    (to, y + 11.0),
                    "#ffffff",
                    "3.4",
                );
                line(&mut body, (from, y + 11.0), (to, y + 11.0), INK, "1.4");
            }
            let waited = format!("{:.0} ms", wait.median);
            text(
                &mut body,
                left + WIDTH + 8.0,
                y + 15.0,
                "start",
                INK,
                12,
                "400",
                &waited,
            );
            let _ = write!(description, "{label} {:.0} %, {waited}; ", share.median);
        }
        let half = left + WIDTH / 2.0;
        let bottom = top + rows.len() as f64 * ROW;
        line(&mut body, (half, top - 3.0), (half, bottom), INK, "1");
        text(
            &mut body,
            half,
            bottom + 14.0,
            "middle",
            FAINT,
            11,
            "400",
            "half each",
        );
    }
    let width = MARGIN * 2.0 + LABELS + columns.len() as f64 * (WIDTH + WAIT);
    let height = top + rows.len() as f64 * ROW + 32.0;
    Ok(document(
        title,
        subtitle,
        description.trim_end(),
        width,
        height,
        &body,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plot::tests::assert_well_formed;

    #[test]
    fn series_are_well_formed_and_have_a_key() {
        let curve = Curve {
            label: "a & b".into(),
            colour: INK,
            goodput: vec![1.0; 100],
            window: vec![30.0; 100],
        };
        let row = Row {
            title: "a < b".into(),
            curves: vec![curve],
        };
        let svg = series("Title", "Subtitle", &[row]);
        assert_well_formed(&svg);
        assert!(svg.contains(">a &amp; b</text>") && svg.contains("<polyline"));
    }

    #[test]
    fn two_to_five_ticks() {
        for highest in [1.0, 3.0, 19.0, 50.0, 999.0, 6000.0] {
            let ticks = (highest / tick(highest)).ceil();
            assert!((1.0..=5.0).contains(&ticks), "{highest}: {ticks}");
        }
    }
}
