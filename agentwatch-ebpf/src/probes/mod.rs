//! The programs, by subject.

pub mod borrowed;
pub mod budget;
pub mod call;
pub mod cgroup;
pub mod connect;
pub mod exec;
pub mod file;
pub mod head;
pub mod hold;
pub mod inode;
pub mod mapped;
pub mod open;
pub mod packet;
pub mod passed;
pub mod path;
pub mod process;
pub mod signal;
pub mod socket;
pub mod syscall;
pub mod tcp;
pub mod thin;
pub mod uring;

// Denial.
pub mod deny;
pub mod deny_packet;
pub mod lsm;
pub mod lsm_path;
