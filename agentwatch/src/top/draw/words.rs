//! Numbers and times as short as they are wanted in columns.

use super::super::state::fleet::real;

/// Bytes in at most 5 characters: `0`, `512`, `1.2K`, `34M`.
pub fn bytes(n: f64) -> String {
    scaled(n, 1024.0, ["", "K", "M", "G", "T", "P"])
}

/// A count in at most 5 characters: `0`, `0.4`, `17`, `1.2k`.
pub fn count(n: f64) -> String {
    if n > 0.0 && n < 9.95 && n.fract().abs() > f64::EPSILON {
        return if n < 0.05 {
            "<0.1".to_owned()
        } else {
            format!("{n:.1}")
        };
    }
    scaled(n, 1000.0, ["", "k", "M", "G", "T", "P"])
}

fn scaled(n: f64, base: f64, units: [&str; 6]) -> String {
    let mut value = n.max(0.0);
    let mut at = 0;
    while value >= base - 0.5 && at + 1 < units.len() {
        value /= base;
        at += 1;
    }
    if at > 0 && value < 9.95 {
        format!("{value:.1}{}", units[at])
    } else {
        format!("{value:.0}{}", units[at])
    }
}

/// A share of processors in per cent: `0%`, `3.4%`, `120%`.
pub fn percent(share: f64) -> String {
    let n = share.max(0.0) * 100.0;
    if n > 0.0 && n < 0.05 {
        "<.1%".to_owned()
    } else if n > 0.0 && n < 9.95 {
        format!("{n:.1}%")
    } else {
        format!("{n:.0}%")
    }
}

/// A time that has gone by, from milliseconds: `12s`, `3m`, `5h`, `2d`.
pub fn age(ms: i64) -> String {
    let s = ms.max(0) / 1000;
    match s {
        0..100 => format!("{s}s"),
        100..6000 => format!("{}m", s / 60),
        6000..360_000 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

/// The last so many values as bars, the highest of them (but at least `least`) being full.
pub fn bars(values: impl Iterator<Item = f64>, width: usize, least: f64) -> String {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values: Vec<f64> = values.map(|value| value.max(0.0)).collect();
    let most = values.iter().copied().fold(least, f64::max);
    let mut out = " ".repeat(width.saturating_sub(values.len()));
    let skip = values.len().saturating_sub(width);
    for value in &values[skip..] {
        // Little is still something.
        let level = (value / most * real(8)).ceil().min(8.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 8"
        )]
        out.push(BARS[level as usize]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_numbers() {
        let all = [
            0.0, 512.0, 1023.0, 1023.7, 1229.0, 10_240.0, 1e6, 3.4e7, 1e12,
        ];
        let said: Vec<String> = all.into_iter().map(bytes).collect();
        assert_eq!(
            said,
            [
                "0", "512", "1023", "1.0K", "1.2K", "10K", "977K", "32M", "931G"
            ]
        );
        let all = [0.0, 0.01, 0.4, 2.0, 9.96, 17.4, 999.6, 1234.0, 56_789.0];
        let said: Vec<String> = all.into_iter().map(count).collect();
        assert_eq!(
            said,
            ["0", "<0.1", "0.4", "2", "10", "17", "1.0k", "1.2k", "57k"]
        );
        let said: Vec<String> = [0.0, 0.0001, 0.034, 1.2].into_iter().map(percent).collect();
        assert_eq!(said, ["0%", "<.1%", "3.4%", "120%"]);
        let said: Vec<String> = [-5, 12_000, 180_000, 18_000_000, 200_000_000_000]
            .into_iter()
            .map(age)
            .collect();
        assert_eq!(said, ["0s", "12s", "3m", "5h", "2314d"]);
    }

    #[test]
    fn no_bytes_take_more_than_their_column() {
        let mut n = 0.3;
        while n < 1e15 {
            assert!(bytes(n).len() <= 5, "{n}: {}", bytes(n));
            assert!(count(n).len() <= 5, "{n}: {}", count(n));
            n *= 1.07;
        }
    }

    #[test]
    fn bars_of_the_last_values() {
        assert_eq!(bars([0.0, 1.0, 4.0, 8.0].into_iter(), 6, 1.0), "   ▁▄█");
        assert_eq!(bars([8.0, 0.0, 0.1].into_iter(), 2, 8.0), " ▁");
        assert_eq!(bars([2.0].into_iter(), 1, 8.0), "▂");
    }
}
