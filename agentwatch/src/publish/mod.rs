//! What goes out to people.

pub mod account;
pub mod notice;
pub mod ocsf;
