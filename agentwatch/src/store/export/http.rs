//! HTTP with TLS, for destinations that are servers.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use hyper::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a connection without anything to say is kept: some servers close theirs after three seconds.
const IDLE: Duration = Duration::from_secs(2);

/// A client that speaks to `http://` and `https://`.
///
/// # Errors
///
/// When the certificates cannot be read.
pub fn client<B>(ca_file: Option<&Path>) -> Result<Client<HttpsConnector<HttpConnector>, B>>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT));
    http.set_keepalive(Some(Duration::from_secs(60)));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls(ca_file)?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    Ok(Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .build(connector))
}

/// The server's certificate must be vouched for.
fn tls(ca_file: Option<&Path>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca_file {
        let read = || -> Result<Vec<CertificateDer<'static>>> {
            Ok(CertificateDer::pem_file_iter(file)?.collect::<Result<_, _>>()?)
        };
        let certificates = read()
            .with_context(|| format!("cannot read the certificates in {}", file.display()))?;
        if certificates.is_empty() {
            bail!("there is no certificate in {}", file.display());
        }
        for certificate in certificates {
            roots
                .add(certificate)
                .with_context(|| format!("a certificate in {} is damaged", file.display()))?;
        }
    } else {
        // Where a system has none, http:// works, and https:// says that nobody vouches for the server.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    Ok(
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("setting up TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}

/// Whether TLS is the cause of an error. An error of input and output keeps what it is made of to itself.
pub fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>()
        || inner.is_some_and(|inner| is_tls(inner))
        || error.source().is_some_and(is_tls)
}
