//! A line between a client and a server that can break.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Result;

/// What the line does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Nothing but what it should.
    Pass,
    /// Breaks when so many more bytes have gone to the server.
    CutRequest(usize),
    /// Breaks when the server answers.
    CutAnswer,
    /// Changes the byte behind so many that go to the server.
    Corrupt(usize),
    /// Lets nothing through.
    Stall,
}

/// A line. One that broke once is a good one from then on.
pub struct Proxy {
    port: u16,
    line: Arc<Mutex<Line>>,
}

impl Proxy {
    /// A good line to a port on loopback.
    pub fn to(server: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let line = Arc::new(Mutex::new(Line::Pass));
        let shared = Arc::clone(&line);
        // It ends with the tests.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A server that is not there: the client's connection is closed.
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
                    continue;
                };
                let (Ok(client2), Ok(server2)) = (client.try_clone(), server.try_clone()) else {
                    continue;
                };
                let (there, back) = (Arc::clone(&shared), Arc::clone(&shared));
                thread::spawn(move || pump(client, server, &there, true));
                thread::spawn(move || pump(server2, client2, &back, false));
            }
        });
        Ok(Self { port, line })
    }

    /// Where it begins.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on it is like this.
    pub fn set(&self, line: Line) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = line;
    }

    /// How it is.
    pub fn line(&self) -> Line {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries what comes from one end to the other, until one of them closes or the line breaks.
fn pump(mut from: TcpStream, mut to: TcpStream, line: &Mutex<Line>, is_request: bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let mut end = n;
        let mut cut = false;
        loop {
            let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
            match (*line, is_request) {
                (Line::Stall, _) => {}
                (Line::CutRequest(left), true) => {
                    cut = left <= n;
                    end = n.min(left);
                    *line = if cut {
                        Line::Pass
                    } else {
                        Line::CutRequest(left - n)
                    };
                    break;
                }
                (Line::Corrupt(left), true) => {
                    if left < n {
                        buffer[left] ^= 0x55;
                        *line = Line::Pass;
                    } else {
                        *line = Line::Corrupt(left - n);
                    }
                    break;
                }
                (Line::CutAnswer, false) => {
                    (cut, end) = (true, 0);
                    *line = Line::Pass;
                    break;
                }
                _ => break,
            }
            drop(line);
            thread::sleep(Duration::from_millis(5));
        }
        if to.write_all(&buffer[..end]).is_err() || cut {
            break;
        }
    }
    // They fail where the other end has closed.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
