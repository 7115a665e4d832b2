//! agentwatch: an eBPF monitor and kill switch for AI agents.
pub mod probe;
