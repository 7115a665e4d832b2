//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write as _};

use crate::host::sums::Latency;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many took at most how long.
    Histogram,
}

/// A page of metrics.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// What follows is of this metric.
    pub fn head(&mut self, name: &str, sort: Sort, help: &str) {
        let sort = match sort {
            Sort::Counter => "counter",
            Sort::Gauge => "gauge",
            Sort::Histogram => "histogram",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}");
        let _ = writeln!(self.0, "# TYPE {name} {sort}");
    }

    /// A value of it.
    pub fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// A metric with one value.
    pub fn one(&mut self, name: &str, sort: Sort, help: &str, value: impl Display) {
        self.head(name, sort, help);
        self.line(name, &[], value);
    }

    /// A histogram, in seconds.
    pub fn histogram(&mut self, name: &str, help: &str, latency: &Latency) {
        self.head(name, Sort::Histogram, help);
        let bucket = format!("{name}_bucket");
        let mut sum = 0;
        for (n, bound_us) in latency.buckets.iter().zip(Latency::BOUNDS_US) {
            sum += n;
            self.line(&bucket, &[("le", &seconds(bound_us))], sum);
        }
        sum += latency.buckets[Latency::BOUNDS_US.len()];
        self.line(&bucket, &[("le", "+Inf")], sum);
        self.line(&format!("{name}_sum"), &[], seconds(latency.sum_us));
        self.line(&format!("{name}_count"), &[], sum);
    }

    /// The text.
    pub fn finish(self) -> String {
        self.0
    }
}

/// Microseconds as seconds.
pub fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_break_a_line() {
        let mut page = Page::default();
        page.line("agentwatch_x", &[("agent", "a\"b\\c\nd")], 3);
        assert_eq!(page.finish(), "agentwatch_x{agent=\"a\\\"b\\\\c\\nd\"} 3\n");
    }

    #[test]
    fn times_are_seconds() {
        assert_eq!(seconds(0), "0");
        assert_eq!(seconds(50), "0.00005");
        assert_eq!(seconds(2_000_000), "2");
        assert_eq!(seconds(1_234_500), "1.2345");
    }

    #[test]
    fn buckets_add_up() {
        let mut latency = Latency::default();
        for us in [10, 400, 3_000_000] {
            latency.observe(us);
        }
        let mut page = Page::default();
        page.histogram("x_seconds", "How long.", &latency);
        let text = page.finish();
        for line in [
            "x_seconds_bucket{le=\"0.00005\"} 1",
            "x_seconds_bucket{le=\"0.0005\"} 2",
            "x_seconds_bucket{le=\"1\"} 2",
            "x_seconds_bucket{le=\"+Inf\"} 3",
            "x_seconds_sum 3.00041",
            "x_seconds_count 3",
        ] {
            assert!(text.lines().any(|there| there == line), "{line}: {text}");
        }
    }
}
