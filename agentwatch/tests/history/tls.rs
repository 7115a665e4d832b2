//! A server's certificate must be vouched for.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use agentwatch::store::{
    clickhouse::Settings,
    export::{Class, Fault},
};
use anyhow::{Context as _, Result, ensure};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::filling::{fill, once, push, server, settings};

crate::tests! {
    nobody_is_trusted_but_who_is_vouched_for;
}

fn nobody_is_trusted_but_who_is_vouched_for() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "1", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .context("starting openssl")?;
    ensure!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let engine = server()?;
    let port = front(engine.port(), &certificate, &key)?;
    fill(dir.path(), 0..1000)?;
    let url = format!("https://localhost:{port}");
    let error = push(dir.path(), &settings(&url), 1000)
        .err()
        .context("it is refused")?;
    let fault: &Fault = error.downcast_ref().context("a fault")?;
    ensure!(
        fault.class == Class::Certificate && fault.class.is_permanent(),
        "{fault}"
    );
    ensure!(fault.to_string().contains("ca_file"), "{fault}");
    let trusting = Settings {
        ca_file: Some(certificate),
        ..settings(&url)
    };
    // The right certificate, for another name.
    let elsewhere = Settings {
        url: format!("https://127.0.0.1:{port}"),
        ..trusting.clone()
    };
    let error = push(dir.path(), &elsewhere, 1000)
        .err()
        .context("it is refused")?;
    let fault: &Fault = error.downcast_ref().context("a fault")?;
    ensure!(fault.class == Class::Certificate, "{fault}");
    push(dir.path(), &trusting, 1000)?;
    once(&engine, 1000)
}

/// TLS in front of a port on loopback.
fn front(server: u16, certificate: &Path, key: &Path) -> Result<u16> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    // It ends with the tests.
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            thread::spawn(move || carry(client, server, config));
        }
    });
    Ok(port)
}

/// Carries both ways in turn: each waits a moment for the other.
fn carry(client: TcpStream, server: u16, config: Arc<ServerConfig>) -> Result<()> {
    let moment = Some(Duration::from_millis(10));
    let mut server = TcpStream::connect(("127.0.0.1", server))?;
    let mut client = StreamOwned::new(ServerConnection::new(config)?, client);
    while client.conn.is_handshaking() {
        client.conn.complete_io(&mut client.sock)?;
    }
    client.sock.set_read_timeout(moment)?;
    server.set_read_timeout(moment)?;
    while some(&mut client, &mut server)? && some(&mut server, &mut client)? {}
    Ok(())
}

/// Carries what is there; false at the end.
fn some(from: &mut impl Read, to: &mut impl Write) -> Result<bool> {
    let mut buffer = [0; 16 * 1024];
    match from.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(n) => {
            to.write_all(&buffer[..n])?;
            to.flush()?;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error.into()),
    }
}
