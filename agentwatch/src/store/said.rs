//! A message in a payload as the details of a row. The names are those of ECS and OpenTelemetry where
//! they have one; the others follow their manner.

use serde_json::{Map, Value, json};

use crate::decode::payload::{
    Message,
    dns::{Answer, Data, Dns},
    http::Request,
    ssh::Banner,
    stratum::Stratum,
    tls::ClientHello,
};

/// The details of a message. What it does not have is absent.
pub fn detail(message: &Message) -> Value {
    let mut detail = Map::new();
    match message {
        Message::Tls(hello) => tls(hello, &mut detail),
        Message::Dns(message) => dns(message, &mut detail),
        Message::Http(request) => http(request, &mut detail),
        Message::Ssh(Banner { version, software }) => {
            detail.insert("ssh.version".to_owned(), json!(version));
            detail.insert("ssh.software".to_owned(), json!(software));
        }
        Message::Stratum(message) => stratum(message, &mut detail),
    }
    Value::Object(detail)
}

fn put(detail: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        detail.insert(name.to_owned(), value.into());
    }
}

fn tls(hello: &ClientHello, detail: &mut Map<String, Value>) {
    let ClientHello {
        server_name,
        alpn,
        versions,
        ech,
        cut: _,
    } = hello;
    put(detail, "tls.client.server_name", server_name.clone());
    put(detail, "tls.client.alpn", some(alpn));
    put(detail, "tls.client.supported_versions", some(versions));
    put(detail, "tls.client.ech", ech.then_some(true));
}

fn some(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn dns(message: &Dns, detail: &mut Map<String, Value>) {
    let Dns {
        id,
        is_answer,
        question,
        rcode,
        answers,
        cut: _,
    } = message;
    put(detail, "dns.id", Some(*id));
    let kind = if *is_answer { "answer" } else { "query" };
    put(detail, "dns.type", Some(kind));
    if let Some(question) = question {
        put(detail, "dns.question.name", Some(question.name.clone()));
        put(detail, "dns.question.type", Some(question.kind.clone()));
    }
    put(detail, "dns.response_code", rcode.clone());
    if *is_answer {
        let resolved = message.resolved().into_iter();
        let resolved: Vec<Value> = resolved.map(|(ip, _)| ip.to_string().into()).collect();
        put(
            detail,
            "dns.resolved_ip",
            (!resolved.is_empty()).then_some(resolved),
        );
        let answers: Vec<Value> = answers.iter().map(answer).collect();
        put(detail, "dns.answers", Some(answers));
    }
}

fn answer(answer: &Answer) -> Value {
    let Answer {
        name,
        kind,
        ttl_s,
        data,
    } = answer;
    let mut told = json!({"name": name, "type": kind, "ttl": ttl_s});
    match data {
        Data::Address(ip) => told["data"] = ip.to_string().into(),
        Data::Alias(name) => told["data"] = name.clone().into(),
        Data::Other(bytes) => told["bytes"] = (*bytes).into(),
    }
    told
}

fn http(request: &Request, detail: &mut Map<String, Value>) {
    let Request {
        method,
        target,
        host,
        version,
        cut: _,
    } = request;
    put(detail, "http.version", Some(*version));
    put(detail, "http.request.method", method.clone());
    put(detail, "url.original", target.clone());
    // With CONNECT the target is the server; with a proxy Host is the server, not the peer.
    let server = if request.is_connect() {
        target.as_deref()
    } else {
        host.as_deref()
    };
    let (address, port) = match server.and_then(|server| server.rsplit_once(':')) {
        Some((address, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            (Some(address), port.parse::<u16>().ok())
        }
        _ => (server, None),
    };
    put(detail, "server.address", address);
    put(detail, "server.port", port);
    if request.is_connect() {
        return;
    }
    let full = match (target.as_deref(), host.as_deref()) {
        (Some(target), _) if request.is_for_proxy() => Some(target.to_owned()),
        (Some(target), Some(host)) => Some(format!("http://{host}{target}")),
        _ => None,
    };
    put(detail, "url.full", full);
}

fn stratum(message: &Stratum, detail: &mut Map<String, Value>) {
    let Stratum {
        version,
        method,
        user,
        software,
        cut: _,
    } = message;
    put(detail, "stratum.version", Some(*version));
    put(detail, "stratum.method", Some(method.clone()));
    put(detail, "stratum.user", user.clone());
    put(detail, "stratum.software", software.clone());
}
