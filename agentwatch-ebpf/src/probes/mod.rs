//! The programs, by subject.

pub mod cgroup;
pub mod connect;
pub mod exec;
pub mod file;
pub mod head;
pub mod inode;
pub mod packet;
pub mod process;
pub mod socket;
pub mod tcp;
