//! `docs/CONGESTION.md` and its plots.

use std::fmt::Write;

use anyhow::{Result, ensure};

use super::{
    PAGE, PLOTS,
    plot::{self, CONTROLLERS, Column, shown},
    results::{Results, Spread},
    text,
};

/// Pairs of controllers.
const PAIRS: [[&str; 2]; 6] = [
    ["cubic", "cubic"],
    ["newreno", "newreno"],
    ["bbr", "bbr"],
    ["cubic", "newreno"],
    ["cubic", "bbr"],
    ["newreno", "bbr"],
];
/// Bottlenecks that two transfers share.
const SHARED: [(&str, &str); 3] = [
    ("1bdp", "Buffer of 40 ms"),
    ("5bdp", "Buffer of 200 ms"),
    ("codel", "CoDel and ECN"),
];
/// Where there was an outage.
const OUTAGES: [(&str, &str); 3] = [
    ("dsl", "DSL"),
    ("lte", "LTE at 30 Mbit/s"),
    ("satellite", "Satellite"),
];

/// The page and the plots: files and their contents.
pub(super) fn outputs(results: &Results) -> Result<Vec<(String, String)>> {
    claims(results)?;
    let page = [
        text::INTRODUCTION.to_owned(),
        advice(results)?,
        text::AFTER_ADVICE.to_owned(),
        text::LINKS.to_owned(),
        links(results)?,
        accidents(results)?,
        two(results)?,
        windows(results)?,
        bbr(results)?,
        text::METHOD.to_owned(),
    ];
    let mut outputs = vec![(PAGE.to_owned(), page.concat())];
    for (name, svg) in plots(results)? {
        outputs.push((format!("{PLOTS}{name}.svg"), svg));
    }
    Ok(outputs)
}

/// A number with as many digits as say something.
fn figure(value: f64) -> String {
    match value {
        _ if value == 0.0 => "0".to_owned(),
        _ if value < 1.0 => format!("{value:.2}"),
        _ if value < 10.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// With the range, if it is worth mentioning.
fn ranged(it: Spread) -> String {
    if it.max - it.min <= 0.02 * it.median.abs() || figure(it.min) == figure(it.max) {
        return figure(it.median);
    }
    format!(
        "{} ({}–{})",
        figure(it.median),
        figure(it.min),
        figure(it.max)
    )
}

/// Milliseconds as a reader wants them.
fn time(millis: Spread) -> String {
    if millis.median < 1000.0 {
        return format!("{} ms", ranged(millis));
    }
    let seconds = Spread {
        median: millis.median / 1e3,
        min: millis.min / 1e3,
        max: millis.max / 1e3,
    };
    format!("{} s", ranged(seconds))
}

/// The medians of all controllers.
fn medians(results: &Results, group: &str, scenario: &str, metric: &str) -> Result<[f64; 3]> {
    let mut medians = [0.0; 3];
    for (median, (name, ..)) in medians.iter_mut().zip(CONTROLLERS) {
        *median = results.get(group, scenario, &[name], metric)?.median;
    }
    Ok(medians)
}

/// What the page says in words, as far as figures can refute it.
fn claims(results: &Results) -> Result<()> {
    for network in &results.networks {
        let [cubic, newreno, bbr] = medians(results, "link", &network.name, "share")?;
        let at_least = cubic.min(newreno) * 0.9;
        ensure!(bbr > at_least, "{}: BBR is far behind", network.name);
    }
    let [cubic, newreno, bbr] = medians(results, "link", "loss-1", "share")?;
    ensure!(cubic.max(newreno) < 20.0 && bbr > 80.0, "loss of 1 %");
    let [cubic, newreno, bbr] = medians(results, "link", "dsl-codel", "wait_mean")?;
    ensure!(
        cubic.max(newreno) < 10.0 && bbr > 10.0,
        "waiting with CoDel"
    );
    let [cubic, newreno, _] = medians(results, "outage", "satellite", "recovery")?;
    ensure!(newreno > 3.0 * cubic, "NewReno after an outage");
    for other in ["cubic", "newreno"] {
        for scenario in ["1bdp", "codel"] {
            let share = results.get("pair", scenario, &[other, "bbr"], "share_a")?;
            ensure!(share.median < 20.0, "{other} beside BBR");
        }
    }
    Ok(())
}

/// Which controller for which link.
fn advice(results: &Results) -> Result<String> {
    const CHOICES: [(&str, &str, &str, &[&str]); 10] = [
        (
            "lan",
            "CUBIC",
            "Nothing waits for long whatever is done; BBR is a little slower.",
            &["share"],
        ),
        (
            "dsl",
            "CUBIC; NewReno if others wait",
            "All fill it. They differ in how much of the buffer they fill.",
            &["share", "wait_p95"],
        ),
        (
            "dsl-codel",
            "CUBIC",
            "Full, and nobody waits. BBR ignores the marks.",
            &["share", "wait_mean"],
        ),
        (
            "lte",
            "NewReno or CUBIC",
            "Goodput is the same; BBR sends much for nothing.",
            &["share", "wait_mean", "resent"],
        ),
        (
            "satellite",
            "CUBIC, and a window of 2.5 MB",
            "NewReno needs minutes after losses; BBR starts faster.",
            &["share", "time_1m"],
        ),
        (
            "wifi",
            "CUBIC; BBR only if it is all yours",
            "BBR fills it and its buffer, and most of what it sends is lost.",
            &["share", "resent"],
        ),
        (
            "loss-0.1",
            "BBR if it is all yours, else CUBIC",
            "Loss is taken for congestion.",
            &["share", "wait_mean"],
        ),
        (
            "loss-1",
            "the same",
            "The more so.",
            &["share", "wait_mean"],
        ),
        ("loss-3", "the same", "The more so.", &["share", "time_1m"]),
        (
            "shallow",
            "CUBIC",
            "BBR gets a little more by sending nearly twice as much.",
            &["share", "resent"],
        ),
    ];
    let mut page = String::from("| link | choose | because | figures |\n|---|---|---|---|\n");
    for (name, choice, why, metrics) in CHOICES {
        let network = results.networks.iter().find(|it| it.name == name);
        let title = network.map_or(name, |it| &it.title);
        let mut figures = Vec::new();
        for metric in metrics {
            let (what, unit) = match *metric {
                "share" => ("goodput", "%"),
                "resent" => ("sent again", "%"),
                "wait_mean" => ("waiting", "ms"),
                "wait_p95" => ("95 of 100 wait less than", "ms"),
                _ => ("1 MB in", "ms"),
            };
            let [a, b, c] = medians(results, "link", name, metric)?.map(figure);
            figures.push(format!("{what} {a}, {b}, {c} {unit}"));
        }
        let _ = writeln!(
            page,
            "| {title} | **{choice}** | {why} | {} |",
            figures.join("; ")
        );
    }
    let mut beside = Vec::new();
    for other in ["cubic", "newreno"] {
        let share = results.get("pair", "1bdp", &[other, "bbr"], "share_a")?;
        beside.push(format!(
            "{} is left {} % beside BBR",
            shown(other),
            figure(share.median)
        ));
    }
    let _ = writeln!(
        page,
        "| Shared with others | **CUBIC or NewReno** | They leave each other room; BBR does not. | {} |",
        beside.join(", ")
    );
    Ok(page)
}

fn links(results: &Results) -> Result<String> {
    let mut page = String::from(
        "![Goodput, waiting and what is sent again](benchmarks/congestion-links.svg)\n\n\
         ![Times of downloads](benchmarks/congestion-times.svg)\n\n\
         | link | controller | goodput | share, % | waiting, ms | 95 % below, ms | sent again, % | 100 kB | 1 MB | 10 MB |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for network in &results.networks {
        for (index, (name, shown, _)) in CONTROLLERS.into_iter().enumerate() {
            let get = |metric| results.get("link", &network.name, &[name], metric);
            let title = if index == 0 { &*network.title } else { "" };
            let _ = writeln!(
                page,
                "| {title} | {shown} | {} | {} | {} | {} | {} | {} | {} | {} |",
                ranged(get("goodput")?),
                ranged(get("share")?),
                ranged(get("wait_mean")?),
                ranged(get("wait_p95")?),
                ranged(get("resent")?),
                time(get("time_100k")?),
                time(get("time_1m")?),
                time(get("time_10m")?),
            );
        }
    }
    page += "\nThe links:\n\n";
    for network in &results.networks {
        let _ = writeln!(page, "- **{}**: {}.", network.title, network.about);
    }
    Ok(page)
}

fn accidents(results: &Results) -> Result<String> {
    let mut page = text::ACCIDENTS.to_owned();
    page += "| | controller | before, Mbit/s | silent, s | recovered, s |\n|---|---|---|---|---|\n";
    let holes = [("mtu", "1300", "MTU of 1300")];
    let outages = OUTAGES.map(|(name, title)| ("outage", name, title));
    for (group, scenario, title) in outages.into_iter().chain(holes) {
        for (index, (name, shown, _)) in CONTROLLERS.into_iter().enumerate() {
            let get = |metric| results.get(group, scenario, &[name], metric);
            let recovered = get("recovery")?;
            // So long it was watched.
            let most = if scenario == "satellite" { 38.0 } else { 12.0 };
            let more = if recovered.median >= most {
                "more than "
            } else {
                ""
            };
            let title = if index == 0 { title } else { "" };
            let _ = writeln!(
                page,
                "| {title} | {shown} | {} | {} | {more}{} |",
                ranged(get("before")?),
                ranged(get("silent")?),
                ranged(recovered),
            );
        }
    }
    page += text::AFTER_ACCIDENTS;
    page += "![Goodput and windows after an accident](benchmarks/congestion-accidents.svg)\n";
    Ok(page)
}

fn two(results: &Results) -> Result<String> {
    let mut page = text::PAIRS.to_owned();
    page += "![Shares of two transfers](benchmarks/congestion-shares.svg)\n\n\
             | buffer | pair | Mbit/s | share of the first, % | Jain’s index | waiting, ms | 95 % below, ms |\n\
             |---|---|---|---|---|---|---|\n";
    for (scenario, title) in SHARED {
        for (index, pair) in PAIRS.iter().enumerate() {
            let get = |metric| results.get("pair", scenario, pair, metric);
            let title = if index == 0 { title } else { "" };
            let _ = writeln!(
                page,
                "| {title} | {} and {} | {} and {} | {} | {:.2} | {} | {} |",
                shown(pair[0]),
                shown(pair[1]),
                figure(get("goodput_a")?.median),
                figure(get("goodput_b")?.median),
                ranged(get("share_a")?),
                get("jain")?.median,
                ranged(get("wait_mean")?),
                ranged(get("wait_p95")?),
            );
        }
    }
    page += "\n![Pairs over time, buffer of 40 ms](benchmarks/congestion-pairs-40ms.svg)\n\n\
             ![Pairs over time, buffer of 200 ms](benchmarks/congestion-pairs-200ms.svg)\n";
    page += text::LATE;
    page += "| buffer | controller | first ten seconds, % | last ten seconds, % | until 40 %, s |\n\
             |---|---|---|---|---|\n";
    for (scenario, title) in SHARED {
        for (index, (name, shown, _)) in CONTROLLERS.into_iter().enumerate() {
            let get = |metric| results.get("late", scenario, &[name, name], metric);
            let title = if index == 0 { title } else { "" };
            let _ = writeln!(
                page,
                "| {title} | {shown} | {} | {} | {} |",
                ranged(get("share_first_10s")?),
                ranged(get("share_last_10s")?),
                ranged(get("until_40_percent")?),
            );
        }
    }
    page += text::RTT;
    page += "| buffer | CUBIC, % | NewReno, % | BBR, % |\n|---|---|---|---|\n";
    for (scenario, title) in SHARED {
        let mut cells = Vec::new();
        for (name, ..) in CONTROLLERS {
            cells.push(ranged(results.get(
                "rtt",
                scenario,
                &[name, name],
                "share_a",
            )?));
        }
        let _ = writeln!(page, "| {title} | {} |", cells.join(" | "));
    }
    page += "\n![Late comers, and near and far](benchmarks/congestion-late.svg)\n";
    Ok(page)
}

fn windows(results: &Results) -> Result<String> {
    let mut page = text::WINDOWS.to_owned();
    page += "| window, bytes | CUBIC | NewReno | BBR |\n|---|---|---|---|\n";
    let windows = [
        ("window", "1250000", "1,250,000, the default"),
        ("window", "2500000", "2,500,000"),
        ("window", "5000000", "5,000,000"),
        ("link", "satellite", "16,777,216"),
    ];
    for (group, scenario, title) in windows {
        let mut cells = Vec::new();
        for (name, ..) in CONTROLLERS {
            let get = |metric| results.get(group, scenario, &[name], metric);
            cells.push(format!(
                "{:.1}; {} ms; {} %",
                get("goodput")?.median,
                figure(get("wait_mean")?.median),
                figure(get("resent")?.median)
            ));
        }
        let _ = writeln!(page, "| {title} | {} |", cells.join(" | "));
    }
    page += text::AFTER_WINDOWS;
    Ok(page)
}

fn bbr(results: &Results) -> Result<String> {
    let get = |name: &str, metric: &str| -> Result<String> {
        Ok(figure(results.get("link", name, &["bbr"], metric)?.median))
    };
    let asked = |name| get(name, "asked_rate");
    let mut page = text::BBR.to_owned();
    let _ = write!(
        page,
        "- **Nobody sends at the rate it asks for.** BBR is a rate; the connection paces by 1.25 windows \
         per round trip, whatever the controller, and uses `pacing_rate` for logs only. What remains is its \
         window of two round trips’ worth, so that a buffer of one round trip is always full, and what \
         does not fit is lost: {} % with a shallow buffer. Its probing never ends either: on DSL it asks for {} \
         Mbit/s in the median, three quarters of the link, in order to drain a queue that does not \
         drain, and sends {}.\n\
         - **Its estimate of the bandwidth goes up only.** It is the highest of what two acknowledgements in a \
         row say, so a burst of them that jitter pressed together counts as bandwidth \
         (`bbr/bw_estimation.rs`), and the filter that should forget after ten rounds is asked only \
         when the new value is higher. On Wi-Fi it asks for {} Mbit/s on a link of 40 and loses {} % of its \
         packets; on LTE {} on a link of 5 to 60, and {} %.\n\
         - **It does not heed ECN.** A mark arrives as a congestion event without lost bytes, of which it counts \
         the bytes. Behind CoDel with ECN packets wait {} ms rather than {} with CUBIC, and two of them \
         wait {} ms.\n\
         - **It does not yield to losses**, as BBR’s first version did not either: beside it, CUBIC gets {} % of \
         the link and NewReno {} %.\n\
         - **It begins with 240,000 bytes**, 200 packets, where RFC 9002 section 7.2 allows 12,000: that is why \
         100 kB arrive sooner. `BbrConfig::initial_window` sets it.\n",
        get("shallow", "resent")?,
        asked("dsl")?,
        get("dsl", "goodput")?,
        asked("wifi")?,
        get("wifi", "resent")?,
        asked("lte")?,
        get("lte", "resent")?,
        get("dsl-codel", "wait_mean")?,
        figure(
            results
                .get("link", "dsl-codel", &["cubic"], "wait_mean")?
                .median
        ),
        figure(
            results
                .get("pair", "codel", &["bbr", "bbr"], "wait_mean")?
                .median
        ),
        figure(
            results
                .get("pair", "1bdp", &["cubic", "bbr"], "share_a")?
                .median
        ),
        figure(
            results
                .get("pair", "1bdp", &["newreno", "bbr"], "share_a")?
                .median
        ),
    );
    Ok(page)
}

fn plots(results: &Results) -> Result<Vec<(&'static str, String)>> {
    let seeds = "Medians; whiskers: the lowest and the highest seed.";
    let percent: &[_] = &[
        (0.0, "0"),
        (25.0, "25"),
        (50.0, "50"),
        (75.0, "75"),
        (100.0, "100"),
    ];
    let waits: &[_] = &[
        (0.1, "0.1"),
        (1.0, "1"),
        (10.0, "10"),
        (100.0, "100"),
        (1000.0, "1000"),
    ];
    let column = |title, metric, from, to, log, ticks| Column {
        title,
        metric,
        from,
        to,
        log,
        ticks,
    };
    let links = plot::bars(
        "Goodput, waiting, and what is sent again",
        &format!("{seeds} The second scale is logarithmic."),
        results,
        &[
            column(
                "goodput, % of the link",
                "share",
                0.0,
                100.0,
                false,
                percent,
            ),
            column("mean waiting, ms", "wait_mean", 0.1, 1000.0, true, waits),
            column("sent again, %", "resent", 0.0, 100.0, false, percent),
        ],
    )?;
    let short: &[_] = &[
        (1.0, "1 ms"),
        (10.0, "10"),
        (100.0, "100"),
        (1000.0, "1 s"),
        (10_000.0, "10 s"),
    ];
    let long: &[_] = &[
        (10.0, "10 ms"),
        (100.0, "100"),
        (1000.0, "1 s"),
        (10_000.0, "10 s"),
        (100_000.0, "100 s"),
    ];
    let times = plot::bars(
        "Downloads, with the handshake",
        &format!("{seeds} Scales are logarithmic."),
        results,
        &[
            column("100 kB", "time_100k", 1.0, 10_000.0, true, short),
            column("1 MB", "time_1m", 1.0, 10_000.0, true, short),
            column("10 MB", "time_10m", 10.0, 100_000.0, true, long),
        ],
    )?;
    let names = |pair: &[&str; 2]| format!("{} and {}", shown(pair[0]), shown(pair[1]));
    let mut rows: Vec<(&str, &[&str; 2], String)> = Vec::new();
    for pair in &PAIRS {
        rows.push(("pair", pair, names(pair)));
    }
    for pair in &PAIRS[..3] {
        rows.push(("rtt", pair, format!("{} near and far", shown(pair[0]))));
    }
    let shares = plot::shares(
        "How two transfers share 20 Mbit/s",
        &format!("{seeds} Grey is the second of the same kind; the figure is the mean waiting."),
        &SHARED,
        &rows,
        results,
    )?;
    let over_time = "One seed; means of half a second. Left: goodput. Right: congestion window.";
    let pairs = |scenario| -> Result<Vec<plot::Row>> {
        let row = |pair| plot::two(results, "pair", scenario, pair, names(pair), None);
        PAIRS.iter().map(row).collect()
    };
    let mut late = Vec::new();
    for pair in &PAIRS[..3] {
        let title = format!("{}, a late comer", shown(pair[0]));
        late.push(plot::two(
            results,
            "late",
            "1bdp",
            pair,
            title,
            Some(["first", "late comer"]),
        )?);
    }
    for pair in &PAIRS[..3] {
        let title = format!("{}, near and far", shown(pair[0]));
        late.push(plot::two(
            results,
            "rtt",
            "1bdp",
            pair,
            title,
            Some(["20 ms", "80 ms"]),
        )?);
    }
    let mut accidents = Vec::new();
    for (scenario, title) in OUTAGES {
        let at = if scenario == "satellite" { 30 } else { 6 };
        let title = format!("{title}: outage from {at} to {} s", at + 2);
        accidents.push(plot::each(results, "outage", scenario, &title)?);
    }
    accidents.push(plot::each(
        results,
        "mtu",
        "1300",
        "MTU of 1300 bytes from 6 s on",
    )?);
    Ok(vec![
        ("links", links),
        ("times", times),
        ("shares", shares),
        (
            "pairs-40ms",
            plot::series("Two transfers, buffer of 40 ms", over_time, &pairs("1bdp")?),
        ),
        (
            "pairs-200ms",
            plot::series(
                "Two transfers, buffer of 200 ms",
                over_time,
                &pairs("5bdp")?,
            ),
        ),
        (
            "late",
            plot::series(
                "Late comers, and near and far, buffer of 40 ms",
                over_time,
                &late,
            ),
        ),
        (
            "accidents",
            plot::series("After an accident", over_time, &accidents),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_given_where_they_matter() {
        let spread = |median, min, max| Spread { median, min, max };
        assert_eq!(ranged(spread(47.7, 47.6, 47.8)), "48");
        assert_eq!(ranged(spread(4.4, 4.0, 5.1)), "4.4 (4.0–5.1)");
        assert_eq!(time(spread(1765.0, 1765.0, 1765.0)), "1.8 s");
        assert_eq!(time(spread(106.5, 106.5, 106.5)), "106 ms");
    }
}
