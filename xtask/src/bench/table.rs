//! Medians, ratios, and how they are printed.

use std::fmt;

use super::{
    cell::{Cell, Daemon, Setting, float},
    work::{RATE, RATE_EVENTS, Target, Work},
};

/// Fewer events than this say nothing about what one costs.
const FEW: u64 = 1_000;

/// All rounds of a setting.
pub struct Measured {
    pub setting: Setting,
    pub cells: Vec<Cell>,
}

/// One line.
pub struct Row {
    work: &'static str,
    setting: String,
    /// `None` for a peer that is not here.
    values: Option<Values>,
}

struct Values {
    cpu_ns: f64,
    ratio: f64,
    /// How far the control is from running without, as a share.
    noise: f64,
    target: Option<(Target, Outcome)>,
    daemon: Option<Daemon>,
    /// agentwatch's CPU for an event, median, nanoseconds.
    event_ns: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    /// Over, but by no more than the control is.
    Noise,
    Over,
}

impl Row {
    /// The line of a peer that is not installed.
    pub fn absent(work: &Work, name: &str) -> Self {
        Self {
            work: work.name,
            setting: name.to_owned(),
            values: None,
        }
    }

    /// The target is missed by more than the noise, or events were lost.
    pub fn is_over(&self) -> bool {
        let target = |values: &Values| values.target.map(|(_, outcome)| outcome);
        self.values
            .as_ref()
            .is_some_and(|values| target(values) == Some(Outcome::Over))
    }
}

/// The lines of a work, from all its settings.
pub fn rows(work: &'static Work, measured: &[Measured]) -> Vec<Row> {
    let cpu = |setting: Setting| -> Vec<f64> {
        measured
            .iter()
            .filter(|it| it.setting == setting)
            .flat_map(|it| it.cells.iter().map(|cell| cell.cpu_ns))
            .collect()
    };
    let none = cpu(Setting::None);
    let control = cpu(Setting::Control);
    // What a round's settings are compared with: both runs without.
    let base: Vec<f64> = none
        .iter()
        .zip(&control)
        .map(|(a, b)| f64::midpoint(*a, *b))
        .collect();
    let noise = noise(&ratios(&control, &none));
    measured
        .iter()
        .map(|Measured { setting, cells }| {
            let own = cpu(*setting);
            let against = if *setting == Setting::Control {
                &none
            } else {
                &base
            };
            let ratio = median(ratios(&own, against));
            let base_ns = median(base.clone());
            let target = match setting {
                Setting::Outside => work.outside,
                Setting::Agent => work.agent,
                Setting::None | Setting::Control | Setting::Peer(_) => None,
            };
            let events = |cell: &Cell| cell.daemon.filter(|daemon| daemon.emitted >= FEW);
            let event_ns: Vec<f64> = cells
                .iter()
                .filter_map(events)
                .map(|daemon| daemon.cpu_ns / float(daemon.emitted))
                .collect();
            Row {
                work: work.name,
                setting: name(*setting).to_owned(),
                values: Some(Values {
                    cpu_ns: median(own),
                    ratio,
                    noise,
                    target: target.map(|target| (target, outcome(target, ratio, noise, base_ns))),
                    daemon: worst(cells),
                    event_ns: (!event_ns.is_empty()).then(|| median(event_ns)),
                }),
            }
        })
        .collect()
}

fn name(setting: Setting) -> &'static str {
    match setting {
        Setting::None => "none",
        Setting::Control => "none again",
        Setting::Outside => "outside",
        Setting::Agent => "agent",
        Setting::Peer(peer) => peer.name,
    }
}

fn outcome(target: Target, ratio: f64, noise: f64, base_ns: f64) -> Outcome {
    let most = match target {
        Target::Ratio(most) => most,
        Target::AddedNs(ns) => 1.0 + ns / base_ns,
    };
    if ratio <= most {
        Outcome::Ok
    } else if ratio <= most + noise {
        Outcome::Noise
    } else {
        Outcome::Over
    }
}

/// The sums of all rounds' events and losses, and the most memory.
fn worst(cells: &[Cell]) -> Option<Daemon> {
    cells
        .iter()
        .filter_map(|cell| cell.daemon)
        .reduce(|a, b| Daemon {
            cpu_ns: a.cpu_ns + b.cpu_ns,
            peak_mb: a.peak_mb.max(b.peak_mb),
            idle_mb: a.idle_mb.max(b.idle_mb),
            emitted: a.emitted + b.emitted,
            lost: a.lost + b.lost,
            dropped: a.dropped + b.dropped,
        })
}

fn ratios(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a / b).collect()
}

fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

/// How far the middle half of the control's ratios reaches from 1.
fn noise(ratios: &[f64]) -> f64 {
    let far = |q| (quantile(ratios.to_vec(), q) - 1.0).abs();
    far(0.25).max(far(0.75))
}

/// Between the two values next to it where it is none of them; 0 of nothing.
fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        return 0.0;
    };
    let at = q * float(last as u64);
    #[expect(clippy::cast_sign_loss, reason = "an index: neither is negative")]
    let below = at.floor() as usize;
    let above = (below + 1).min(last);
    values[below] + (values[above] - values[below]) * (at - at.floor())
}

/// Prints what there is to measure.
pub fn list(works: &[Work]) {
    let shown = |target: Option<Target>| target.map_or("-".to_owned(), |target| target.to_string());
    println!(
        "{:<12}{:>10}{:>10}  one operation",
        "work", "outside", "agent"
    );
    for work in works {
        let (outside, agent) = (shown(work.outside), shown(work.agent));
        println!(
            "{:<12}{outside:>10}{agent:>10}  {}",
            work.name, work.operation
        );
    }
    println!(
        "{RATE:<12}{:>10}{:>10}  {RATE_EVENTS} events a second for a minute, without history",
        "-", "-"
    );
}

/// Prints the head of the table.
pub fn head() {
    println!(
        "{:<11} {:<11} {:>11} {:>7} {:>7} {:>8} {:<6} {:>9} {:>7} {:>8} {:>8} {:>7}",
        "work",
        "setting",
        "CPU µs/op",
        "ratio",
        "±noise",
        "target",
        "",
        "events",
        "lost",
        "unstored",
        "µs/event",
        "RSS MB"
    );
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ratio(most) => write!(f, "{most:.2}"),
            Self::AddedNs(ns) => write!(f, "+{ns:.0} ns"),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            work,
            setting,
            values,
        } = self;
        write!(f, "{work:<11} {setting:<11} ")?;
        let Some(values) = values else {
            return write!(f, "not installed");
        };
        let (target, outcome) = match values.target {
            None => (String::new(), ""),
            Some((target, Outcome::Ok)) => (target.to_string(), "ok"),
            Some((target, Outcome::Noise)) => (target.to_string(), "noise"),
            Some((target, Outcome::Over)) => (target.to_string(), "OVER"),
        };
        write!(
            f,
            "{:>11.3} {:>7.3} {:>7.3} {target:>8} {outcome:<6}",
            values.cpu_ns / 1e3,
            values.ratio,
            values.noise
        )?;
        if let Some(daemon) = values.daemon {
            let event = values
                .event_ns
                .map_or("-".to_owned(), |ns| format!("{:.2}", ns / 1e3));
            write!(
                f,
                " {:>9} {:>7} {:>8} {event:>8} {:>7.1}",
                daemon.emitted, daemon.lost, daemon.dropped, daemon.peak_mb
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_values() {
        assert_eq!(quantile(vec![3.0, 1.0, 2.0], 0.5).to_bits(), 2f64.to_bits());
        assert_eq!(quantile(vec![1.0, 2.0], 0.5).to_bits(), 1.5f64.to_bits());
        assert_eq!(quantile(Vec::new(), 0.5).to_bits(), 0f64.to_bits());
    }

    #[test]
    fn a_target_is_missed_by_more_than_the_noise_only() {
        let target = Target::Ratio(1.1);
        assert_eq!(outcome(target, 1.1, 0.0, 1.0), Outcome::Ok);
        assert_eq!(outcome(target, 1.15, 0.06, 1.0), Outcome::Noise);
        assert_eq!(outcome(target, 1.15, 0.04, 1.0), Outcome::Over);
        // 55 ns more than 110 are one and a half times as much.
        let target = Target::AddedNs(55.0);
        assert_eq!(outcome(target, 1.5, 0.0, 110.0), Outcome::Ok);
        assert_eq!(outcome(target, 1.6, 0.0, 110.0), Outcome::Over);
    }
}
