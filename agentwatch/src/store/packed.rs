//! The details of an event as columns, and back.

use serde_json::{Map, Value};

use super::detail::{Detail, FileFacts};
use crate::event::PathSource;

/// Bits of the column `facts`; the view `events` has them by name.
mod bit {
    pub const CREATED: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const URING: u32 = 4;
    pub const PARTIAL: u32 = 8;
    pub const IN: u32 = 16;
    pub const OUT: u32 = 32;
    pub const KERNEL: u32 = 64;
    pub const CALLER: u32 = 128;
}

/// The names in the details, and the bits of those that are true.
const TRUE: [(&str, u32); 4] = [
    ("created", bit::CREATED),
    ("write", bit::WRITE),
    ("io_uring", bit::URING),
    ("partial", bit::PARTIAL),
];
/// The names and texts in the details that have a bit.
const WORDS: [(&str, &str, u32); 4] = [
    ("way", "in", bit::IN),
    ("way", "out", bit::OUT),
    ("path_source", "kernel", bit::KERNEL),
    ("path_source", "caller", bit::CALLER),
];
/// Those that are numbers, in the order of their columns.
pub const NUMBERS: [&str; 9] = [
    "flags",
    "mode",
    "count",
    "signal",
    "user_ns",
    "system_ns",
    "max_rss_pages",
    "offset",
    "len",
];
/// Those that are texts which repeat, in the order of their columns.
pub const TEXTS: [&str; 4] = [
    "cwd",
    "destination.domain",
    "tls.client.server_name",
    "device",
];
/// Those that are texts which do not.
pub const PLAIN: [&str; 2] = ["dns.question.name", "head"];

/// Details as columns.
#[derive(Debug, Default, PartialEq)]
pub struct Packed<'a> {
    /// See [`bit`].
    pub facts: u32,
    /// See [`NUMBERS`].
    pub numbers: [Option<u64>; 9],
    /// See [`TEXTS`].
    pub texts: [Option<&'a str>; 4],
    /// See [`PLAIN`].
    pub plain: [Option<&'a str>; 2],
    /// The arguments, as JSON.
    pub argv: Option<String>,
    /// What else there is, as JSON.
    pub rest: Option<String>,
}

impl<'a> Packed<'a> {
    /// The columns of details.
    pub fn new(detail: &'a Detail) -> Self {
        match detail {
            Detail::File(facts) => Self::file(*facts),
            Detail::Json(Value::Object(map)) => Self::object(map),
            Detail::Json(other) => Self {
                rest: Some(other.to_string()),
                ..Self::default()
            },
        }
    }

    fn file(of: FileFacts) -> Self {
        let mut packed = Self::default();
        for (is, bit) in [
            (of.created, bit::CREATED),
            (of.write, bit::WRITE),
            (of.uring, bit::URING),
            (of.path_source == PathSource::Kernel, bit::KERNEL),
            (of.path_source == PathSource::Caller, bit::CALLER),
        ] {
            packed.facts |= if is { bit } else { 0 };
        }
        packed.numbers[0] = Some(of.flags.into());
        packed.numbers[1] = Some(of.mode.into());
        packed.numbers[2] = (of.count > 1).then(|| of.count.into());
        packed.rest = of.replaced.map(|inode| {
            format!(
                r#"{{"replaced":{{"dev":{},"ino":{}}}}}"#,
                inode.dev, inode.ino
            )
        });
        packed
    }

    fn object(map: &'a Map<String, Value>) -> Self {
        let mut packed = Self::default();
        let mut rest = String::new();
        for (name, value) in map {
            if packed.take(name, value) {
                continue;
            }
            rest.push(if rest.is_empty() { '{' } else { ',' });
            rest.push_str(&Value::String(name.clone()).to_string());
            rest.push(':');
            rest.push_str(&value.to_string());
        }
        if !rest.is_empty() {
            rest.push('}');
            packed.rest = Some(rest);
        } else if map.is_empty() {
            packed.rest = Some("{}".to_owned());
        }
        packed
    }

    /// Whether it has a column.
    fn take(&mut self, name: &str, value: &'a Value) -> bool {
        match value {
            Value::Bool(true) => match TRUE.iter().find(|(of, _)| *of == name) {
                Some((_, bit)) => self.facts |= bit,
                None => return false,
            },
            Value::Number(number) => {
                let at = NUMBERS.iter().position(|of| *of == name);
                match (at, number.as_u64()) {
                    (Some(at), Some(number)) => self.numbers[at] = Some(number),
                    _ => return false,
                }
            }
            Value::String(text) => {
                if let Some(at) = TEXTS.iter().position(|of| *of == name) {
                    self.texts[at] = Some(text);
                } else if let Some(at) = PLAIN.iter().position(|of| *of == name) {
                    self.plain[at] = Some(text);
                } else if let Some((_, _, bit)) = WORDS
                    .iter()
                    .find(|(of, word, _)| *of == name && word == text)
                {
                    self.facts |= bit;
                } else {
                    return false;
                }
            }
            Value::Array(_) if name == "argv" => self.argv = Some(value.to_string()),
            _ => return false,
        }
        true
    }

    /// The details again. Text that is no JSON is left out: the file is damaged there.
    pub fn unpack(&self) -> Option<Detail> {
        if let Some(facts) = self.as_file() {
            return Some(Detail::File(facts));
        }
        let mut map = match self.rest.as_deref().map(serde_json::from_str) {
            Some(Ok(Value::Object(map))) => map,
            Some(Ok(other)) => return Some(other.into()),
            Some(Err(_)) | None => Map::new(),
        };
        for (name, bit) in TRUE {
            if self.facts & bit != 0 {
                map.insert(name.to_owned(), true.into());
            }
        }
        for (name, word, bit) in WORDS {
            if self.facts & bit != 0 {
                map.insert(name.to_owned(), word.into());
            }
        }
        for (name, number) in NUMBERS.iter().zip(self.numbers) {
            if let Some(number) = number {
                map.insert((*name).to_owned(), number.into());
            }
        }
        let texts = TEXTS.iter().zip(self.texts);
        for (name, text) in texts.chain(PLAIN.iter().zip(self.plain)) {
            if let Some(text) = text {
                map.insert((*name).to_owned(), text.into());
            }
        }
        let argv = self.argv.as_deref();
        if let Some(argv) = argv.and_then(|json| serde_json::from_str(json).ok()) {
            map.insert("argv".to_owned(), argv);
        }
        (!map.is_empty() || self.rest.is_some()).then(|| Value::Object(map).into())
    }

    /// What most calls upon files have, and nothing else.
    fn as_file(&self) -> Option<FileFacts> {
        let small = |number: u64| u32::try_from(number).ok();
        let [
            Some(flags),
            Some(mode),
            count,
            None,
            None,
            None,
            None,
            None,
            None,
        ] = self.numbers
        else {
            return None;
        };
        let path_source = match self.facts & (bit::KERNEL | bit::CALLER) {
            bit::KERNEL => PathSource::Kernel,
            bit::CALLER => PathSource::Caller,
            _ => return None,
        };
        let others = bit::PARTIAL | bit::IN | bit::OUT;
        let plain = self.facts & others == 0
            && count.is_none_or(|count| count > 1)
            && self.texts == [None; 4]
            && self.plain == [None; 2]
            && self.argv.is_none()
            && self.rest.is_none();
        plain.then_some(FileFacts {
            count: small(count.unwrap_or(1))?,
            created: self.facts & bit::CREATED != 0,
            write: self.facts & bit::WRITE != 0,
            uring: self.facts & bit::URING != 0,
            flags: small(flags)?,
            mode: small(mode)?,
            path_source,
            replaced: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop_oneof!["in", "out", "kernel", "caller", ".*"].prop_map(Value::from),
            Just(Value::Null),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop::collection::vec(inner, 0..3).prop_map(Value::from)
        })
    }

    fn name() -> impl Strategy<Value = String> {
        let known = NUMBERS
            .iter()
            .chain(&TEXTS)
            .chain(&PLAIN)
            .copied()
            .chain(TRUE.iter().map(|(name, _)| *name))
            .chain(WORDS.iter().map(|(name, _, _)| *name))
            .chain(["argv"])
            .collect::<Vec<&str>>();
        prop_oneof![
            prop::sample::select(known).prop_map(str::to_owned),
            ".{0,5}"
        ]
    }

    proptest! {
        #[test]
        fn any_details_are_the_same_again(
            map in prop::collection::btree_map(name(), value(), 0..8),
        ) {
            let detail = Detail::Json(Value::Object(map.into_iter().collect()));
            prop_assert_eq!(Packed::new(&detail).unpack(), Some(detail));
        }
    }
}
