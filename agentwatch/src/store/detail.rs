//! What of an event has no column of its own.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::event::{File, Inode, PathSource};

/// A JSON object. Calls upon files are most of all events: what they have is kept as it is, and made
/// JSON where it is written.
#[derive(Debug, Clone)]
pub enum Detail {
    /// Any.
    Json(Value),
    /// Of a call upon a file, without what few of them have.
    File(FileFacts),
}

impl<'de> Deserialize<'de> for Detail {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Value::deserialize(from).map(Self::Json)
    }
}

/// See [`File`].
#[derive(Debug, Clone, Copy)]
pub struct FileFacts {
    pub(super) count: u32,
    pub(super) created: bool,
    pub(super) write: bool,
    pub(super) uring: bool,
    pub(super) flags: u32,
    pub(super) mode: u32,
    pub(super) path_source: PathSource,
    pub(super) replaced: Option<Inode>,
}

impl From<&File> for FileFacts {
    fn from(file: &File) -> Self {
        Self {
            count: file.count,
            created: file.created,
            write: file.write,
            uring: file.uring,
            flags: file.flags,
            mode: file.mode,
            path_source: file.path_source,
            replaced: file.replaced,
        }
    }
}

/// As JSON: the names in alphabetical order, as those of a [`serde_json::Map`] are.
impl fmt::Display for FileFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            created,
            write,
            uring,
            flags,
            mode,
            path_source,
            replaced,
        } = *self;
        f.write_str("{")?;
        if count > 1 {
            write!(f, r#""count":{count},"#)?;
        }
        if created {
            f.write_str(r#""created":true,"#)?;
        }
        write!(f, r#""flags":{flags},"#)?;
        if uring {
            f.write_str(r#""io_uring":true,"#)?;
        }
        let source = path_source.name();
        write!(f, r#""mode":{mode},"path_source":"{source}""#)?;
        if let Some(Inode { dev, ino }) = replaced {
            write!(f, r#","replaced":{{"dev":{dev},"ino":{ino}}}"#)?;
        }
        f.write_str(if write { r#","write":true}"# } else { "}" })
    }
}

impl FileFacts {
    fn value(self) -> Value {
        let mut value = json!({
            "flags": self.flags, "mode": self.mode, "path_source": self.path_source.name(),
        });
        for (name, is) in [
            ("created", self.created),
            ("write", self.write),
            ("io_uring", self.uring),
        ] {
            if is {
                value[name] = true.into();
            }
        }
        if self.count > 1 {
            value["count"] = self.count.into();
        }
        if let Some(Inode { dev, ino }) = self.replaced {
            value["replaced"] = json!({"dev": dev, "ino": ino});
        }
        value
    }
}

impl Detail {
    /// As JSON.
    pub fn value(&self) -> Cow<'_, Value> {
        match self {
            Self::Json(value) => Cow::Borrowed(value),
            Self::File(facts) => Cow::Owned(facts.value()),
        }
    }

    /// To be changed.
    pub fn value_mut(&mut self) -> &mut Value {
        if let Self::File(facts) = self {
            *self = Self::Json(facts.value());
        }
        match self {
            Self::Json(value) => value,
            Self::File(_) => unreachable!("made JSON just now"),
        }
    }

    /// One of them, as text.
    pub fn told(&self, name: &str) -> Option<&str> {
        match self {
            Self::Json(value) => value.get(name)?.as_str(),
            Self::File(facts) => (name == "path_source").then(|| facts.path_source.name()),
        }
    }

    /// One of them, as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        match (self, name) {
            (Self::Json(value), _) => value.get(name)?.as_u64(),
            (Self::File(facts), "flags") => Some(facts.flags.into()),
            (Self::File(facts), "count") => (facts.count > 1).then(|| facts.count.into()),
            (Self::File(facts), "mode") => Some(facts.mode.into()),
            (Self::File(_), _) => None,
        }
    }

    /// Whether one of them is true.
    pub fn is(&self, name: &str) -> bool {
        match (self, name) {
            (Self::Json(value), _) => value.get(name).and_then(Value::as_bool) == Some(true),
            (Self::File(facts), "created") => facts.created,
            (Self::File(facts), "write") => facts.write,
            (Self::File(facts), "io_uring") => facts.uring,
            (Self::File(_), _) => false,
        }
    }

    /// One of them that is a list; empty where it is none.
    pub fn list(&self, name: &str) -> &[Value] {
        match self {
            Self::Json(value) => value
                .get(name)
                .and_then(Value::as_array)
                .map_or(&[], Vec::as_slice),
            Self::File(_) => &[],
        }
    }
}

impl From<Value> for Detail {
    fn from(value: Value) -> Self {
        Self::Json(value)
    }
}

impl PartialEq for Detail {
    fn eq(&self, other: &Self) -> bool {
        self.value() == other.value()
    }
}

impl Serialize for Detail {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

/// JSON in a line.
impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(value) => value.fmt(f),
            Self::File(facts) => facts.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_call_upon_a_file_is_its_json() {
        for bits in 0..32_u8 {
            let is = |bit: u8| bits >> bit & 1 != 0;
            let detail = Detail::File(FileFacts {
                count: if is(4) { 999 } else { 1 },
                created: is(0),
                write: is(1),
                uring: is(2),
                flags: 577,
                mode: 0o644,
                path_source: PathSource::Caller,
                replaced: is(3).then_some(Inode {
                    dev: 7,
                    ino: u64::MAX,
                }),
            });
            let json = detail.value().into_owned();
            assert_eq!(detail.to_string(), json.to_string());
            let json = Detail::from(json);
            for name in [
                "created",
                "write",
                "io_uring",
                "count",
                "flags",
                "mode",
                "path_source",
                "else",
            ] {
                assert_eq!(detail.is(name), json.is(name), "{name}");
                assert_eq!(detail.number(name), json.number(name), "{name}");
                assert_eq!(detail.told(name), json.told(name), "{name}");
            }
            assert_eq!(detail, json);
        }
    }
}
