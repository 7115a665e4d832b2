//! OpenTelemetry logs, as a collector gets them.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use agentwatch::store::export::{self, Class, Fault, OTLP, Options, Otlp, OtlpSettings, Sink};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::filling::{NODE, fill};

crate::tests! {
    a_collector_gets_records_with_the_names_of_opentelemetry;
    what_a_collector_refuses_has_a_class;
}

/// A collector that answers with these statuses, one after the other, and the last one from then on; and the
/// requests that it gets: path, type and body.
fn collector(statuses: &'static [&'static str]) -> Result<(String, Receiver<[String; 3]>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let (requests, got) = channel();
    // It ends with the tests.
    thread::spawn(move || {
        let mut statuses = statuses.iter();
        let mut status = "";
        for client in listener.incoming().flatten() {
            status = statuses.next().unwrap_or(&status);
            // It fails where the test has ended.
            let _ = answer(client, status, &requests);
        }
    });
    Ok((url, got))
}

fn answer(mut client: TcpStream, status: &str, requests: &Sender<[String; 3]>) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut length, mut kind) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse()?,
            "content-type" => value.clone_into(&mut kind),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    requests.send([path, kind, String::from_utf8(body)?])?;
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    )?;
    Ok(())
}

fn send(dir: &std::path::Path, url: &str) -> Result<u64> {
    let options = Options {
        dir: dir.to_owned(),
        name: OTLP,
        batch_rows: 1000,
        every: Duration::ZERO,
    };
    let sink = Sink::Otlp(Otlp::new(&OtlpSettings::new(url), NODE));
    export::push(&options, sink, Duration::from_secs(60))
}

fn a_collector_gets_records_with_the_names_of_opentelemetry() -> Result<()> {
    let dir = tempfile::tempdir()?;
    fill(dir.path(), 0..10)?;
    let (url, got) = collector(&["503 Service Unavailable", "200 OK"])?;
    ensure!(send(dir.path(), &url)? == 13, "all are sent");
    let requests: Vec<[String; 3]> = got.try_iter().collect();
    ensure!(requests[0] == requests[1], "what is not taken comes again");
    let [path, kind, body] = requests.last().context("a request")?;
    ensure!(
        path == "/v1/logs" && kind == "application/json",
        "{path} {kind}"
    );
    let body: Value = serde_json::from_str(body)?;
    let logs = &body["resourceLogs"][0];
    let find = |attributes: &Value, name: &str| -> Value {
        let all = attributes.as_array().into_iter().flatten();
        let mut of = all.filter(|pair| pair["key"] == name);
        of.next()
            .map(|pair| pair["value"].clone())
            .unwrap_or_default()
    };
    let resource = &logs["resource"]["attributes"];
    ensure!(
        find(resource, "service.name")["stringValue"] == "agentwatch",
        "{resource}"
    );
    ensure!(
        find(resource, "host.name")["stringValue"] == NODE,
        "{resource}"
    );
    let records = logs["scopeLogs"][0]["logRecords"]
        .as_array()
        .context("records")?;
    ensure!(records.len() == 10, "{} records", records.len());
    let exec = &records[0];
    ensure!(exec["eventName"] == "agentwatch.exec", "{exec}");
    ensure!(exec["timeUnixNano"] == "1795068000000000000", "{exec}");
    let of = |name| find(&exec["attributes"], name);
    ensure!(of("process.pid")["intValue"] == "1000", "{exec}");
    ensure!(
        of("process.executable.path")["stringValue"] == "/usr/bin/cc",
        "{exec}"
    );
    let words = &of("process.command_args")["arrayValue"]["values"];
    ensure!(words[1]["stringValue"] == "-c", "{exec}");
    let flow = &records[5];
    let of = |name| find(&flow["attributes"], name);
    ensure!(of("network.peer.port")["intValue"] == "443", "{flow}");
    ensure!(
        of("destination.domain")["stringValue"] == "example.org",
        "{flow}"
    );
    // Larger than a signed number.
    ensure!(
        of("agentwatch.cookie")["stringValue"] == "18446744073709551615",
        "{flow}"
    );
    let names: std::collections::HashSet<String> = records
        .iter()
        .map(|record| find(&record["attributes"], "log.record.uid").to_string())
        .collect();
    ensure!(names.len() == 10, "{names:?}");
    Ok(())
}

fn what_a_collector_refuses_has_a_class() -> Result<()> {
    let dir = tempfile::tempdir()?;
    fill(dir.path(), 0..1)?;
    for (status, class) in [
        (&["401 Unauthorized"], Class::Authentication),
        (&["404 Not Found"], Class::Schema),
    ] {
        let (url, _got) = collector(status)?;
        let error = send(dir.path(), &url).err().context("it is refused")?;
        let fault: &Fault = error.downcast_ref().context("a fault")?;
        ensure!(
            fault.class == class && class.is_permanent(),
            "{status:?}: {fault}"
        );
    }
    Ok(())
}
