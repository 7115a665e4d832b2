//! Just enough HTTP to ask a server on loopback, so that tests do not rest on what they test.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Context as _, Result, bail};

/// Runs SQL at a port on loopback, and returns the answer's text.
pub fn query(port: u16, sql: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connecting to ClickHouse")?;
    // As HTTP 1.0 asks, the server sends no chunks and closes the connection.
    write!(
        stream,
        "POST / HTTP/1.0\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{sql}",
        sql.len()
    )
    .context("asking ClickHouse")?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .context("reading ClickHouse's answer")?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("ClickHouse's answer is cut")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{}", body.trim());
    }
    Ok(body.to_owned())
}
