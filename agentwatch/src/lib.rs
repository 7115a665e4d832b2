//! agentwatch: an eBPF monitor and kill switch for AI agents.
//!
//! An event's way: `source → decode → enrich → detect → respond → store, publish`; `pipeline` shows
//! it.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod decode;
pub mod detect;
pub mod domain;
pub mod enrich;
pub mod event;
pub mod finding;
pub mod host;
pub mod incident;
pub mod pipeline;
pub mod policy;
pub mod probe;
pub mod publish;
pub mod recording;
pub mod respond;
pub mod run;
pub mod session;
pub mod source;
pub mod store;
pub mod text;
pub mod top;
