//! The kernel programs' own diagnostics, for whoever looks for a fault in them.

use aya_log::EbpfLogger;

/// The kernel programs' own diagnostics.
pub struct KernelLog(pub(super) EbpfLogger<Stderr>);

impl KernelLog {
    /// Prints what there is.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

/// Prints the kernel programs' diagnostics.
pub(super) struct Stderr;

impl ::log::Log for Stderr {
    fn enabled(&self, _: &::log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &::log::Record<'_>) {
        eprintln!("agentwatch: kernel: {}: {}", record.level(), record.args());
    }

    fn flush(&self) {}
}
