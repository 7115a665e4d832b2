//! OpenTelemetry logs: OTLP over HTTP, as JSON (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>), which
//! every collector takes at port 4318. So it needs none of OpenTelemetry's crates, which bring a hundred.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, header};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::{
    Class, Fault,
    fault::chain,
    http,
    item::{self, Item},
};
use crate::store::follow::Batch;

/// The variable with what is sent as the header `Authorization`.
pub const AUTHORIZATION: &str = "AGENTWATCH_OTLP_AUTHORIZATION";
/// How long a request may take.
const WITHIN: Duration = Duration::from_secs(60);
/// The largest answer that is read.
const ANSWER: usize = 64 << 10;

/// The section `otlp` of the daemon's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpSettings {
    /// The collector: `http://collector.example:4318`. `/v1/logs` is added where there is no path.
    pub url: String,
    /// A PEM file with the certificates that vouch for the collector's [default: the system's].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Most records of a request: 1 to 10000.
    #[serde(default = "default_batch_rows")]
    pub batch_rows: u32,
}

fn default_batch_rows() -> u32 {
    1000
}

impl OtlpSettings {
    /// A collector, with everything else as it is when nothing is said.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            ca_file: None,
            batch_rows: default_batch_rows(),
        }
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    ///
    /// When it does not; the error says what and why.
    pub fn check(&self) -> Result<()> {
        self.endpoint()?;
        ensure!(
            (1..=10_000).contains(&self.batch_rows),
            "batch_rows is {}; it is 1 to 10000",
            self.batch_rows
        );
        Ok(())
    }

    fn endpoint(&self) -> Result<hyper::Uri> {
        let uri: hyper::Uri = self
            .url
            .parse()
            .with_context(|| format!("url: {:?} is no address", self.url))?;
        ensure!(
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some(),
            "url: {:?} does not begin with http:// or https:// and a host",
            self.url
        );
        if matches!(uri.path(), "" | "/") {
            return Ok(format!("{}/v1/logs", self.url.trim_end_matches('/')).parse()?);
        }
        Ok(uri)
    }
}

/// Sends log records.
pub struct Otlp {
    settings: OtlpSettings,
    node: String,
    client: Option<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

impl Otlp {
    /// For this node.
    pub fn new(settings: &OtlpSettings, node: &str) -> Self {
        Self {
            settings: settings.clone(),
            node: node.to_owned(),
            client: None,
        }
    }

    /// Sends a batch. OTLP knows no deduplication: one whose answer is lost comes twice, with the same
    /// `log.record.uid`s.
    ///
    /// # Errors
    ///
    /// When the collector did not say yes.
    pub async fn deliver(&mut self, batch: &Batch) -> Result<(), Fault> {
        let body = request(item::items(batch, &self.node), &self.node).to_string();
        let wrong = |error: anyhow::Error| fault(Class::Certificate, &format!("{error:#}"));
        let mut request = Request::post(self.settings.endpoint().map_err(wrong)?)
            .header(header::CONTENT_TYPE, "application/json")
            .header(
                header::USER_AGENT,
                concat!("agentwatch/", env!("CARGO_PKG_VERSION")),
            );
        if let Ok(value) = std::env::var(AUTHORIZATION) {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| fault(Class::Authentication, &chain(&error)))?;
        let client = match self.client.take() {
            Some(client) => client,
            None => http::client(self.settings.ca_file.as_deref()).map_err(wrong)?,
        };
        let client = self.client.insert(client);
        let ask = async {
            let answer = client.request(request).await.map_err(|error| {
                let class = if http::is_tls(&error) {
                    Class::Certificate
                } else {
                    Class::Unreachable
                };
                fault(class, &chain(&error))
            })?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER).collect().await;
            let body = body
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default();
            judge(status, &body)
        };
        timeout(WITHIN, ask)
            .await
            .map_err(|_| fault(Class::Timeout, "no answer in time"))?
    }
}

/// What an answer means.
fn judge(status: StatusCode, body: &[u8]) -> Result<(), Fault> {
    let said = String::from_utf8_lossy(body);
    if status.is_success() {
        // Records that it will never take: to send them again is of no use.
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let partial = &answer["partialSuccess"];
        let number = &partial["rejectedLogRecords"];
        if number.as_u64().unwrap_or(0) > 0 || number.as_str().is_some_and(|n| n != "0") {
            tracing::warn!(
                exporter = "otlp",
                "the collector rejected {number} records: {}",
                partial["errorMessage"]
            );
        }
        return Ok(());
    }
    let class = match status.as_u16() {
        401 | 403 => Class::Authentication,
        408 | 504 => Class::Timeout,
        429 | 502 | 503 => Class::Busy,
        400..=499 => Class::Schema,
        _ => Class::Server,
    };
    Err(fault(class, &format!("{status}: {said}")))
}

fn fault(class: Class, message: &str) -> Fault {
    let advice = match class {
        Class::Authentication => "set AGENTWATCH_OTLP_AUTHORIZATION to what the collector asks for",
        Class::Schema => "look whether `url` is that of a collector's OTLP receiver for HTTP",
        Class::Certificate => "name the certificate that vouches for the collector: `ca_file`",
        Class::Busy => "it is sent again; look at the collector's load",
        _ => "look whether the collector runs, and into its log",
    };
    Fault::new(class, message, advice)
}

/// A request of the service `LogsService`.
fn request(items: Vec<Item>, node: &str) -> Value {
    let records: Vec<Value> = items.into_iter().map(record).collect();
    json!({"resourceLogs": [{
        "resource": {"attributes": attributes(&json!({
            "service.name": "agentwatch", "service.version": env!("CARGO_PKG_VERSION"), "host.name": node,
        }))},
        "scopeLogs": [{
            "scope": {"name": "agentwatch", "version": env!("CARGO_PKG_VERSION")},
            "logRecords": records,
        }],
    }]})
}

/// The names of OpenTelemetry, where it has one.
const NAMES: [(&str, &str); 16] = [
    ("record", "log.record.uid"),
    ("agent", "agentwatch.agent.name"),
    ("run", "agentwatch.run.id"),
    ("pid", "process.pid"),
    ("ppid", "process.parent_pid"),
    ("uid", "process.user.id"),
    ("comm", "process.title"),
    ("exe", "process.executable.path"),
    ("path", "file.path"),
    ("ino", "file.inode"),
    ("protocol", "network.transport"),
    ("local", "network.local.address"),
    ("remote", "network.peer.address"),
    ("remote_port", "network.peer.port"),
    ("argv", "process.command_args"),
    ("cwd", "process.working_directory"),
];

/// A log record.
fn record(item: Item) -> Value {
    let Item {
        time_ns,
        mut object,
    } = item;
    let text = |object: &Map<String, Value>, name: &str| {
        object.get(name).and_then(Value::as_str).map(str::to_owned)
    };
    let kind = text(&object, "type").unwrap_or_default();
    let name = match kind.as_str() {
        "event" => format!("agentwatch.{}", text(&object, "kind").unwrap_or_default()),
        _ => format!("agentwatch.{kind}"),
    };
    let (number, severity) = match text(&object, "severity").as_deref() {
        Some("critical") => (21, "FATAL"),
        Some("high") => (17, "ERROR"),
        Some("medium") => (13, "WARN"),
        _ => (9, "INFO"),
    };
    let body = text(&object, "message").unwrap_or_else(|| name.clone());
    for known in ["type", "node", "time", "message"] {
        object.remove(known);
    }
    if let Some(Value::Object(detail)) = object.remove("detail") {
        object.extend(detail);
    }
    let named: Map<String, Value> = object
        .into_iter()
        .map(|(name, value)| {
            let known = NAMES.iter().find(|(own, _)| *own == name);
            let name = match known {
                Some((_, other)) => (*other).to_owned(),
                // Of ECS or OpenTelemetry already.
                None if name.contains('.') => name,
                None => format!("agentwatch.{name}"),
            };
            (name, value)
        })
        .collect();
    json!({
        "timeUnixNano": time_ns.to_string(), "severityNumber": number, "severityText": severity,
        "eventName": name, "body": {"stringValue": body}, "attributes": attributes(&Value::Object(named)),
    })
}

/// Attributes: pairs of a name and a value that says its type.
fn attributes(object: &Value) -> Vec<Value> {
    let pairs = object.as_object().into_iter().flatten();
    pairs
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| json!({"key": name, "value": any(value)}))
        .collect()
}

/// `AnyValue`. Its integers are signed, and text in JSON.
fn any(value: &Value) -> Value {
    match value {
        Value::Bool(is) => json!({"boolValue": is}),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(n), _) => json!({"intValue": n.to_string()}),
            (None, Some(n)) => json!({"stringValue": n.to_string()}),
            (None, None) => json!({"doubleValue": number}),
        },
        Value::String(text) => json!({"stringValue": text}),
        Value::Array(list) => {
            json!({"arrayValue": {"values": list.iter().map(any).collect::<Vec<_>>()}})
        }
        Value::Object(_) => json!({"kvlistValue": {"values": attributes(value)}}),
        Value::Null => json!({}),
    }
}
