//! ClickHouse follows the history: the tables there, and the way of rows into them. Nothing outside this
//! folder knows how it is spoken to.
//!
//! Each batch has a token of its own, the same whenever it is sent again, and the server drops what it has
//! already: at least once on the wire, exactly once in the tables and in the sums made from them.

mod block;
mod connection;
mod fault;
pub mod migrate;
pub mod schema;
mod sender;
pub mod settings;
mod tables;

pub use connection::Connection;
pub use sender::Sender;
pub use settings::{Compression, Password, Settings};
