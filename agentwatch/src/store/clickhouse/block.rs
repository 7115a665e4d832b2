//! Rows as columns, in ClickHouse's format `Native`: what its servers use among themselves, and what costs
//! them least to read (<https://clickhouse.com/docs/interfaces/formats/Native>).

use std::collections::HashMap;

use bytes::Bytes;

/// How much is compressed and sent at once, bytes.
const PIECE: usize = 1 << 20;

/// Columns of the same length.
#[derive(Debug, Default)]
pub struct Block {
    rows: usize,
    columns: Vec<Column>,
}

/// A column: its name, its type, and its values as they are sent.
#[derive(Debug)]
pub struct Column {
    name: &'static str,
    kind: &'static str,
    form: Form,
    data: Vec<u8>,
}

#[derive(Debug)]
enum Form {
    /// Nothing but the values.
    Plain,
    /// Before them a byte for each: 1 where there is none.
    Nullable(Vec<u8>),
    /// Before them where the list of each row ends.
    Lists(Vec<u64>),
    /// The values are different ones, and for each row there is its number among them.
    Dictionary(Dictionary),
}

#[derive(Debug, Default)]
struct Dictionary {
    numbers: HashMap<Box<str>, u32>,
    rows: Vec<u32>,
    /// What came last, which is what comes next more often than not.
    last: Option<(Box<str>, u32)>,
}

impl Column {
    /// A column of values that are there.
    pub fn plain(name: &'static str, kind: &'static str) -> Self {
        Self::new(name, kind, Form::Plain)
    }

    /// A column of values that may not be there; `kind` is `Nullable(…)`.
    pub fn nullable(name: &'static str, kind: &'static str) -> Self {
        Self::new(name, kind, Form::Nullable(Vec::new()))
    }

    /// A column of lists of text.
    pub fn lists(name: &'static str) -> Self {
        Self::new(name, "Array(String)", Form::Lists(Vec::new()))
    }

    /// A column of text of which there are few different ones.
    pub fn few(name: &'static str) -> Self {
        Self::new(
            name,
            "LowCardinality(String)",
            Form::Dictionary(Dictionary::default()),
        )
    }

    fn new(name: &'static str, kind: &'static str, form: Form) -> Self {
        Self {
            name,
            kind,
            form,
            data: Vec::new(),
        }
    }

    /// The next row's value, in the bytes of its type: numbers little-endian.
    pub fn put(&mut self, value: &[u8]) {
        if let Form::Nullable(missing) = &mut self.form {
            missing.push(0);
        }
        self.data.extend_from_slice(value);
    }

    /// The next row has a value or none, which takes as many bytes.
    pub fn put_some<const N: usize>(&mut self, value: Option<[u8; N]>) {
        if let Form::Nullable(missing) = &mut self.form {
            missing.push(u8::from(value.is_none()));
        }
        self.data.extend_from_slice(&value.unwrap_or([0; N]));
    }

    /// The next row's text.
    pub fn text(&mut self, text: &str) {
        let data = &mut self.data;
        if let Form::Dictionary(dictionary) = &mut self.form {
            dictionary.put(text, data);
        } else {
            put_text(data, text);
        }
    }

    /// The next row's list.
    pub fn list<'a>(&mut self, texts: impl Iterator<Item = &'a str>) {
        let mut number = 0;
        for text in texts {
            put_text(&mut self.data, text);
            number += 1;
        }
        if let Form::Lists(ends) = &mut self.form {
            ends.push(ends.last().unwrap_or(&0) + number);
        }
    }

    fn write(self, rows: usize, out: &mut Vec<u8>) {
        put_text(out, self.name);
        put_text(out, self.kind);
        match self.form {
            Form::Plain => {}
            Form::Nullable(missing) => out.extend_from_slice(&missing),
            Form::Lists(ends) => {
                for end in ends {
                    out.extend_from_slice(&end.to_le_bytes());
                }
            }
            Form::Dictionary(dictionary) => return dictionary.write(rows, &self.data, out),
        }
        out.extend_from_slice(&self.data);
    }
}

impl Dictionary {
    fn put(&mut self, text: &str, data: &mut Vec<u8>) {
        if let Some((last, number)) = &self.last
            && **last == *text
        {
            self.rows.push(*number);
            return;
        }
        let number = if let Some(number) = self.numbers.get(text) {
            *number
        } else {
            let number = self.numbers.len() as u32;
            self.numbers.insert(text.into(), number);
            put_text(data, text);
            number
        };
        self.last = Some((text.into(), number));
        self.rows.push(number);
    }

    fn write(self, rows: usize, values: &[u8], out: &mut Vec<u8>) {
        /// The form of what follows, and that the values stand in the block itself.
        const VERSION: u64 = 1;
        const HAS_VALUES: u64 = 1 << 9;
        let number = |out: &mut Vec<u8>, n: u64| out.extend_from_slice(&n.to_le_bytes());
        number(out, VERSION);
        if rows == 0 {
            return;
        }
        // How wide the numbers are: 1, 2 or 4 bytes.
        let different = self.numbers.len();
        let width = match different {
            0..=0x100 => 0,
            0x101..=0x1_0000 => 1,
            _ => 2,
        };
        number(out, HAS_VALUES | width);
        number(out, different as u64);
        out.extend_from_slice(values);
        number(out, rows as u64);
        for row in self.rows {
            out.extend_from_slice(&row.to_le_bytes()[..1 << width]);
        }
    }
}

/// Text behind its length.
fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// A number in groups of seven bits, the lowest first.
fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

impl Block {
    /// A block of columns that have `rows` values each.
    pub fn new(rows: usize, columns: Vec<Column>) -> Self {
        Self { rows, columns }
    }

    /// The columns' names, as in an INSERT.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name).collect();
        names.join(", ")
    }

    /// As it is sent.
    pub fn encode(self) -> Encoded {
        let names = self.names();
        let size: usize = self.columns.iter().map(|c| c.data.len()).sum();
        let mut out = Vec::with_capacity(size + size / 8 + self.rows * 40);
        put_varint(&mut out, self.columns.len() as u64);
        put_varint(&mut out, self.rows as u64);
        for column in self.columns {
            column.write(self.rows, &mut out);
        }
        Encoded {
            names,
            rows: self.rows,
            bytes: out.into(),
        }
    }
}

/// A block as it is sent.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The columns' names, as in an INSERT.
    pub names: String,
    /// How many rows.
    pub rows: usize,
    bytes: Bytes,
}

impl Encoded {
    /// In pieces that are compressed one by one.
    pub fn pieces(&self) -> impl Iterator<Item = Bytes> + '_ {
        (0..self.bytes.len())
            .step_by(PIECE)
            .map(|from| self.bytes.slice(from..self.bytes.len().min(from + PIECE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(rows: usize, columns: Vec<Column>) -> Vec<u8> {
        let encoded = Block::new(rows, columns).encode();
        encoded.pieces().flat_map(|piece| piece.to_vec()).collect()
    }

    /// As `clickhouse local --query "SELECT … FORMAT Native"` writes it.
    #[test]
    fn columns_are_written_as_the_server_does() {
        let mut number = Column::plain("n", "UInt16");
        number.put(&7_u16.to_le_bytes());
        number.put(&0x102_u16.to_le_bytes());
        let mut result = Column::nullable("r", "Nullable(Int8)");
        result.put_some(None::<[u8; 1]>);
        result.put_some(Some([255]));
        let mut list = Column::lists("l");
        list.list(["a", "bc"].into_iter());
        list.list(std::iter::empty());
        let text = encode(2, vec![number, result, list]);
        let expected = b"\x03\x02\
            \x01n\x06UInt16\x07\0\x02\x01\
            \x01r\x0eNullable(Int8)\x01\0\0\xff\
            \x01l\x0dArray(String)\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01a\x02bc";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_comes_often_is_written_once() {
        let mut few = Column::few("k");
        for text in ["open", "open", "exec", "open", ""] {
            few.text(text);
        }
        let text = encode(5, vec![few]);
        let expected = b"\x01\x05\x01k\x16LowCardinality(String)\
            \x01\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04open\x04exec\0\
            \x05\0\0\0\0\0\0\0\0\0\x01\0\x02";
        assert_eq!(text, expected);
    }

    #[test]
    fn many_different_ones_have_wider_numbers() {
        for (different, width) in [(256, 1), (257, 2), (65_536, 2), (65_537, 4)] {
            let mut few = Column::few("k");
            let mut texts = 0;
            for n in 0..different {
                let text = n.to_string();
                few.text(&text);
                texts += 1 + text.len();
            }
            let head = 2 + 2 + 23 + 8 + 8 + 8 + 8 + if different > 16_383 { 2 } else { 1 };
            assert_eq!(
                encode(different, vec![few]).len(),
                head + texts + different * width
            );
        }
    }

    #[test]
    fn a_long_text_has_a_long_length() {
        let mut column = Column::plain("t", "String");
        column.text(&"x".repeat(300));
        let text = encode(1, vec![column]);
        assert_eq!(text[2 + 2 + 7..][..3], [0xac, 2, b'x']);
    }
}
