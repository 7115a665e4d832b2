//! The other end of what the workload sends: in the benchmark itself, so outside any agent.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener, UdpSocket},
    thread,
};

use anyhow::{Context as _, Result};

/// Starts what takes connections and datagrams on loopback, and gives both addresses. It ends with
/// the benchmark.
pub fn start() -> Result<[SocketAddr; 2]> {
    let tcp = TcpListener::bind("127.0.0.1:0").context("listening on loopback")?;
    let udp = UdpSocket::bind("127.0.0.1:0").context("binding to loopback")?;
    let addresses = [tcp.local_addr()?, udp.local_addr()?];
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        for stream in tcp.incoming() {
            // The workload ends its connections by a reset: an error here, and no news.
            let Ok(mut stream) = stream else { continue };
            while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while udp.recv(&mut buffer).is_ok() {}
    });
    Ok(addresses)
}
