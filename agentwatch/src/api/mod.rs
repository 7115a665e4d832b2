//! The daemon's API: HTTP/1.1 on a unix socket.

pub mod model;
