//! Server-sent events, as one reads them: what the daemon uses of
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use anyhow::{Result, ensure};

/// The largest item that is taken.
const ITEM: usize = 64 << 20;

/// An item of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// What it is; empty for a sign of life.
    pub event: String,
    /// What it says, as JSON.
    pub data: String,
}

/// What has come of a stream, and is not taken yet.
#[derive(Debug, Default)]
pub struct Buffer {
    rest: Vec<u8>,
}

impl Buffer {
    /// Takes what has come.
    ///
    /// # Errors
    ///
    /// When an item does not end.
    pub fn push(&mut self, data: &[u8]) -> Result<()> {
        self.rest.extend_from_slice(data);
        ensure!(
            self.rest.len() <= ITEM,
            "an item of the stream does not end"
        );
        Ok(())
    }

    /// The next item that has come as a whole.
    pub fn take(&mut self) -> Option<Item> {
        let end = self.rest.windows(2).position(|two| two == b"\n\n")?;
        let block: Vec<u8> = self.rest.drain(..end + 2).collect();
        let text = String::from_utf8_lossy(&block);
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.unwrap_or_default().to_owned()
        };
        Some(Item {
            event: field("event: "),
            data: field("data: "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_whole_whatever_the_pieces() {
        let mut buffer = Buffer::default();
        let mut items = Vec::new();
        for byte in b":\n\nevent: news\ndata: {\"a\":1}\n\nevent: half" {
            buffer.push(&[*byte]).unwrap();
            items.extend(buffer.take());
        }
        let news = Item {
            event: "news".to_owned(),
            data: "{\"a\":1}".to_owned(),
        };
        assert_eq!(items, [Item::default(), news]);
    }
}
