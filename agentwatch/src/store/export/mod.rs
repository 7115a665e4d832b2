//! Where the history goes beside the local disk: destinations that follow it, each with a cursor of its own.
//!
//! An exporter is a thread of its own, of low priority, with one batch in memory at a time: it never slows
//! down what happens live, and after an outage it goes on where it was, as fast as the destination takes it.

pub mod fault;
mod status;

pub use fault::{Class, Fault};
pub use status::{Noted, Status};
