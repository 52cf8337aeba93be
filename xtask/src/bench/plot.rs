//! Plots as SVG, written by hand: text and rectangles are all that they need.
//!
//! Every plot brings its own background, so that it reads the same on a light and on a dark page;
//! colours are told apart by people who do not see all of them (Okabe and Ito's set, and a diverging
//! scale from orange to blue), and every figure is also there as a number. A title and a description
//! are for those who do not see the plot.

use std::fmt::Write;

use super::report::{Spread, figure};

const FONT: &str = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif";
const BACKGROUND: &str = "#ffffff";
pub(crate) const INK: &str = "#1f2328";
pub(crate) const FAINT: &str = "#59636e";
pub(crate) const GRID: &str = "#d8dee4";

pub(crate) const MARGIN: f64 = 20.0;
const ROW: f64 = 24.0;
const BAR: f64 = 14.0;
const LABELS: f64 = 178.0;
const PLOT: f64 = 420.0;
const FIGURES: f64 = 172.0;

/// What a bar belongs to, which is its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ours,
    Baseline,
    Rival,
}

impl Kind {
    fn colour(self) -> &'static str {
        match self {
            Self::Ours => "#0072b2",
            Self::Baseline => "#6e7781",
            Self::Rival => "#e69f00",
        }
    }
}

/// One subject in a bar chart.
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) kind: Kind,
    pub(super) ratio: Spread,
    /// The absolute figure with its unit.
    pub(super) figure: String,
}

/// The bars of one metric.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) bars: Vec<Bar>,
}

/// One bar chart: ratios, with a line where the baseline is and whiskers from the lowest to the
/// highest round.
pub(super) fn bars(title: &str, panels: &[Panel]) -> String {
    let width = MARGIN * 2.0 + LABELS + PLOT + FIGURES;
    let mut body = String::new();
    let mut y = MARGIN + 58.0;
    let left = MARGIN + LABELS;
    for panel in panels {
        let highest = panel
            .bars
            .iter()
            .map(|bar| bar.ratio.max)
            .fold(1.2, f64::max);
        let step = tick_step(highest);
        let end = (highest / step).ceil() * step;
        let x = |ratio: f64| left + PLOT * ratio / end;
        text(&mut body, MARGIN, y, "start", INK, 13, "600", &panel.title);
        y += 12.0;
        let bottom = y + panel.bars.len() as f64 * ROW;
        let mut tick = 0.0;
        while tick <= end + step / 2.0 {
            line(&mut body, (x(tick), y), (x(tick), bottom), GRID, "1");
            let label = if step < 0.1 {
                format!("{tick:.2}")
            } else {
                trimmed(tick)
            };
            text(
                &mut body,
                x(tick),
                bottom + 15.0,
                "middle",
                FAINT,
                11,
                "400",
                &label,
            );
            tick += step;
        }
        for bar in &panel.bars {
            let middle = y + ROW / 2.0;
            let weight = if bar.kind == Kind::Ours { "600" } else { "400" };
            text(
                &mut body,
                left - 8.0,
                middle + 4.0,
                "end",
                INK,
                12,
                weight,
                &bar.label,
            );
            let _ = writeln!(
                body,
                "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>",
                middle - BAR / 2.0,
                x(bar.ratio.median) - left,
                bar.kind.colour()
            );
            let (from, to) = (x(bar.ratio.min), x(bar.ratio.max));
            if to - from > 0.5 {
                line(&mut body, (from, middle), (to, middle), INK, "1.4");
                for end in [from, to] {
                    line(
                        &mut body,
                        (end, middle - 4.0),
                        (end, middle + 4.0),
                        INK,
                        "1.4",
                    );
                }
            }
            let shown = format!("{:.2} ×", bar.ratio.median);
            let column = left + PLOT + 14.0;
            text(
                &mut body,
                column,
                middle + 4.0,
                "start",
                INK,
                12,
                "600",
                &shown,
            );
            text(
                &mut body,
                column + 56.0,
                middle + 4.0,
                "start",
                FAINT,
                12,
                "400",
                &bar.figure,
            );
            y += ROW;
        }
        line(
            &mut body,
            (x(1.0), bottom - panel.bars.len() as f64 * ROW - 3.0),
            (x(1.0), bottom),
            INK,
            "1.6",
        );
        y = bottom + 46.0;
    }
    let mut description = String::new();
    for panel in panels {
        let _ = write!(description, "{}: ", panel.title);
        let parts: Vec<_> = panel
            .bars
            .iter()
            .map(|bar| {
                let Spread { median, min, max } = bar.ratio;
                format!(
                    "{} {median:.2} ({min:.2} to {max:.2}), {}",
                    bar.label, bar.figure
                )
            })
            .collect();
        let _ = write!(description, "{}. ", parts.join("; "));
    }
    let subtitle = "Ratio to quinn on tokio in the same rounds: right of the line is better. \
                    Whiskers: lowest and highest round.";
    document(
        title,
        subtitle,
        description.trim_end(),
        width,
        y - 18.0,
        &body,
    )
}

/// One cell of a heat map: the ratio, if there is one.
pub(super) type Cell = Option<f64>;

/// Who did how well at what, at a glance.
pub(super) fn heatmap(
    title: &str,
    columns: &[String],
    rows: &[(String, Kind, Vec<Cell>)],
) -> String {
    const CELL: (f64, f64) = (58.0, 30.0);
    const HEAD: f64 = 104.0;
    let left = MARGIN + LABELS;
    // Slanted labels reach to the right of their columns.
    let width = (left + columns.len() as f64 * CELL.0 + 72.0 + MARGIN).max(660.0);
    let top = MARGIN + 40.0 + HEAD;
    let mut body = String::new();
    for (index, column) in columns.iter().enumerate() {
        let x = left + (index as f64 + 0.5) * CELL.0;
        let y = top - 8.0;
        let _ = writeln!(
            body,
            "<text transform=\"translate({x:.1} {y:.1}) rotate(-40)\" font-size=\"12\" \
             fill=\"{INK}\">{}</text>",
            escaped(column)
        );
    }
    let mut y = top;
    let mut description = String::new();
    let mut previous: Option<Kind> = None;
    for (label, kind, cells) in rows {
        if previous.is_some_and(|it| (it == Kind::Ours) != (*kind == Kind::Ours)) {
            y += 8.0;
        }
        previous = Some(*kind);
        let weight = if *kind == Kind::Ours { "600" } else { "400" };
        text(
            &mut body,
            left - 8.0,
            y + 20.0,
            "end",
            INK,
            12,
            weight,
            label,
        );
        let mut told = Vec::new();
        for (index, cell) in cells.iter().enumerate() {
            let x = left + index as f64 * CELL.0;
            let (fill, ink, shown) = match cell {
                Some(ratio) => {
                    let (fill, ink) = diverging(*ratio);
                    (fill, ink, figure(*ratio))
                }
                None => ("#f6f8fa".to_owned(), FAINT, "–".to_owned()),
            };
            let _ = writeln!(
                body,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>",
                x + 1.0,
                y + 1.0,
                CELL.0 - 2.0,
                CELL.1 - 2.0
            );
            text(
                &mut body,
                x + CELL.0 / 2.0,
                y + 20.0,
                "middle",
                ink,
                12,
                "500",
                &shown,
            );
            if let (Some(ratio), Some(column)) = (cell, columns.get(index)) {
                told.push(format!("{column} {}", figure(*ratio)));
            }
        }
        let _ = write!(description, "{label}: {}. ", told.join(", "));
        y += CELL.1;
    }
    // The scale.
    y += 22.0;
    let samples = [0.33, 0.5, 0.71, 0.9, 1.0, 1.1, 1.41, 2.0, 3.0];
    for (index, ratio) in samples.into_iter().enumerate() {
        let x = left + index as f64 * 38.0;
        let (fill, ink) = diverging(ratio);
        let _ = writeln!(
            body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"38\" height=\"18\" fill=\"{fill}\"/>"
        );
        text(
            &mut body,
            x + 19.0,
            y + 13.0,
            "middle",
            ink,
            11,
            "400",
            &figure(ratio),
        );
    }
    text(
        &mut body,
        left - 8.0,
        y + 13.0,
        "end",
        FAINT,
        11,
        "400",
        "worse to better",
    );
    let subtitle = "Median ratio to quinn on tokio in the same rounds; above 1 is better.";
    document(
        title,
        subtitle,
        description.trim_end(),
        width,
        y + 18.0 + MARGIN,
        &body,
    )
}

/// Colour of a cell and of the number in it: from orange for a third over near white for 1 to blue
/// for three times, in equal steps of the logarithm.
fn diverging(ratio: f64) -> (String, &'static str) {
    const MIDDLE: [f64; 3] = [247.0, 247.0, 247.0];
    const BETTER: [f64; 3] = [5.0, 80.0, 150.0];
    const WORSE: [f64; 3] = [179.0, 88.0, 6.0];
    let strength = (ratio.max(1e-6).ln() / 3f64.ln()).clamp(-1.0, 1.0);
    let end = if strength < 0.0 { WORSE } else { BETTER };
    let share = strength.abs().powf(0.75);
    let mix: Vec<_> = MIDDLE
        .iter()
        .zip(end)
        .map(|(middle, end)| (middle + (end - middle) * share).round() as u8)
        .collect();
    // Whichever of black and white is easier to read on it: their contrasts are equal where the
    // relative luminance is 0.18 (WCAG 2).
    let linear = |channel: u8| (f64::from(channel) / 255.0).powf(2.2);
    let luminance = 0.2126 * linear(mix[0]) + 0.7152 * linear(mix[1]) + 0.0722 * linear(mix[2]);
    let ink = if luminance < 0.2 { "#ffffff" } else { INK };
    (format!("#{:02x}{:02x}{:02x}", mix[0], mix[1], mix[2]), ink)
}

/// A distance between ticks that leaves four to eight of them.
fn tick_step(highest: f64) -> f64 {
    let mut step = 0.25;
    while highest / step > 8.0 {
        step *= 2.0;
    }
    step
}

fn trimmed(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub(crate) fn document(
    title: &str,
    subtitle: &str,
    description: &str,
    width: f64,
    height: f64,
    body: &str,
) -> String {
    let mut head = String::new();
    text(
        &mut head,
        MARGIN,
        MARGIN + 12.0,
        "start",
        INK,
        16,
        "600",
        title,
    );
    text(
        &mut head,
        MARGIN,
        MARGIN + 30.0,
        "start",
        FAINT,
        11,
        "400",
        subtitle,
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-labelledby=\"title desc\" \
         font-family=\"{FONT}\">\n\
         <title id=\"title\">{}</title>\n<desc id=\"desc\">{}</desc>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{BACKGROUND}\" stroke=\"{GRID}\"/>\n\
         {head}{body}</svg>\n",
        escaped(title),
        escaped(description)
    )
}

#[expect(clippy::too_many_arguments, reason = "attributes of one element")]
pub(crate) fn text(
    body: &mut String,
    x: f64,
    y: f64,
    anchor: &str,
    colour: &str,
    size: u8,
    weight: &str,
    content: &str,
) {
    let _ = writeln!(
        body,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" \
         font-weight=\"{weight}\" fill=\"{colour}\">{}</text>",
        escaped(content)
    );
}

pub(crate) fn line(body: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, width: &str) {
    let _ = writeln!(
        body,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" \
         stroke-width=\"{width}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Elements are closed in the order in which they were opened, attributes are quoted, and text
    /// has no bare markup.
    pub(crate) fn assert_well_formed(xml: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = xml;
        while let Some(start) = rest.find('<') {
            assert_text(&rest[..start]);
            let end = start + rest[start..].find('>').expect("a tag that ends");
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closed");
                continue;
            }
            let (tag, is_empty) = match tag.strip_suffix('/') {
                Some(tag) => (tag, true),
                None => (tag, false),
            };
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            assert!(name.chars().all(|it| it.is_ascii_alphanumeric()), "{name}");
            let pieces: Vec<_> = attributes.split('"').collect();
            assert!(attributes.is_empty() || pieces.len() % 2 == 1, "{tag}");
            for names in pieces.iter().step_by(2).filter(|it| !it.is_empty()) {
                assert!(names.ends_with('='), "{tag}");
            }
            if !is_empty {
                open.push(name);
            }
        }
        assert_text(rest);
        assert!(open.is_empty(), "never closed: {open:?}");
    }

    fn assert_text(text: &str) {
        for (position, _) in text.match_indices('&') {
            let entity = text[position..].split_inclusive(';').next().unwrap();
            assert!(
                ["&amp;", "&lt;", "&gt;", "&quot;"].contains(&entity),
                "{entity}"
            );
        }
    }

    fn bar(label: &str, median: f64) -> Bar {
        Bar {
            label: label.into(),
            kind: Kind::Ours,
            ratio: Spread {
                median,
                min: median * 0.9,
                max: median * 1.1,
            },
            figure: "7.25 Gbit/s".into(),
        }
    }

    #[test]
    fn bars_have_their_figures_and_a_text_alternative() {
        let panel = Panel {
            title: "a < b & \"c\"".into(),
            bars: vec![bar("one", 1.52), bar("two", 0.31)],
        };
        let svg = bars("Title & more", &[panel]);
        assert_well_formed(&svg);
        for expected in [
            "<title id=\"title\">Title &amp; more</title>",
            "one 1.52 (1.37 to 1.67), 7.25 Gbit/s; two 0.31",
            ">1.52 ×</text>",
            ">7.25 Gbit/s</text>",
            "role=\"img\"",
        ] {
            assert!(svg.contains(expected), "{expected}");
        }
    }

    #[test]
    fn heat_maps_have_a_number_in_every_cell() {
        let rows = [
            ("ours".to_owned(), Kind::Ours, vec![Some(1.62), None]),
            (
                "rival".to_owned(),
                Kind::Rival,
                vec![Some(0.5), Some(12.25)],
            ),
        ];
        let svg = heatmap("Map", &["download".into(), "memory".into()], &rows);
        assert_well_formed(&svg);
        for expected in [
            ">1.62</text>",
            ">–</text>",
            ">12.2</text>",
            "rival: download 0.50, memory",
        ] {
            assert!(svg.contains(expected), "{expected} in {svg}");
        }
    }

    #[test]
    fn colours_diverge_around_one() {
        assert_eq!(diverging(1.0).0, "#f7f7f7");
        assert_eq!(diverging(3.0).0, diverging(300.0).0);
        assert_eq!(diverging(1.0 / 3.0).0, diverging(0.0).0);
        assert_ne!(diverging(1.2).0, diverging(1.0 / 1.2).0);
    }

    #[test]
    fn ticks_stay_few() {
        for highest in [1.2, 1.99, 2.0, 4.1, 30.0, 1e4] {
            assert!(
                (3.0..=9.0).contains(&(highest / tick_step(highest))),
                "{highest}"
            );
        }
    }
}
