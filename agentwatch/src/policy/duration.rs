//! Durations as policies write them: a whole number and one unit.

use std::time::Duration;

use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

/// State is kept for a window, so windows end somewhere.
const MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Units and their milliseconds, largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let duration = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .and_then(|(_, millis)| number.parse::<u64>().ok()?.checked_mul(*millis))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            format!("`{text}` is no duration; write a whole number and ms, s, m or h, such as 60s")
        })?;
    if duration.is_zero() || duration > MAX {
        return Err(format!(
            "`{text}` is out of range; it is more than 0 and at most 24h"
        ));
    }
    Ok(duration)
}

/// For `#[serde(with)]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// For `#[serde(with)]`: in the largest unit that fits.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let millis = duration.as_millis();
    let (unit, size) = UNITS
        .into_iter()
        .find(|(_, size)| millis.is_multiple_of(u128::from(*size)))
        .unwrap_or(("ms", 1));
    serializer.collect_str(&format_args!("{}{unit}", millis / u128::from(size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse("24h"), Ok(Duration::from_secs(86400)));
        for bad in [
            "",
            "60",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "1h30m",
            "60S",
            "99999999999999999999s",
            "18446744073709551615h",
            "0s",
            "0ms",
            "25h",
            "٣s",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shown_as_written() {
        for text in ["1ms", "1500ms", "60s", "90s", "2m", "1h"] {
            let mut out = String::new();
            serialize(
                &parse(text).unwrap(),
                &mut serde_saphyr::Serializer::new(&mut out),
            )
            .unwrap();
            let expected = if text == "60s" { "1m" } else { text };
            assert_eq!(out.trim(), expected);
        }
    }
}
