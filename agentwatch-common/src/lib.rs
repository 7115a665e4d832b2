//! The wire between the kernel programs and userspace, and nothing else.
//!
//! Every record in a ring buffer is a [`Header`], then the fixed payload of its [`kind`], then a
//! tail of bytes whose lengths the payload tells. Layouts are `repr(C)` with explicit padding, no
//! `bool`, `enum`, `Option` or `usize`, and their sizes are asserted here, because both sides are
//! compiled by different compilers. Numbers are never reused for another meaning.
#![no_std]

pub mod budget;
pub mod call;
pub mod config;
pub mod deny;
pub mod exec;
pub mod file;
pub mod flow;
pub mod header;
pub mod loss;
pub mod offsets;
pub mod process;
pub mod tag;

pub use header::{Header, kind};

/// Implements `aya::Pod` for wire types, in userspace builds only.
#[macro_export]
macro_rules! pod {
    ($($t:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)`, made of integers and byte arrays only, without implicit padding
            // (the size assertions next to each type hold that).
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $t {}
        )+
    };
}
