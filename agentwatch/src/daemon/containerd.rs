//! What containerd says of a container, by its own API: gRPC, which is HTTP/2 with protobuf in it, over its
//! unix socket. Two questions are all that is asked, so there is no generated client:
//! <https://github.com/containerd/containerd/tree/main/api/services>.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Request,
    body::Bytes,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;

/// The header that says in which of containerd's namespaces a container is looked for.
const NAMESPACE: &str = "containerd-namespace";
/// The largest answer that is taken. A container's has its whole OCI specification.
const ANSWER: usize = 16 << 20;
/// `NOT_FOUND` of the gRPC status codes.
const NOT_FOUND: &str = "5";

/// `containerd.services.namespaces.v1.ListNamespacesRequest`, with nothing to filter by.
#[derive(Clone, PartialEq, Message)]
struct ListNamespaces {}

/// `containerd.services.namespaces.v1.ListNamespacesResponse`
#[derive(Clone, PartialEq, Message)]
struct Namespaces {
    #[prost(message, repeated, tag = "1")]
    namespaces: Vec<Namespace>,
}

/// `containerd.services.namespaces.v1.Namespace`
#[derive(Clone, PartialEq, Message)]
struct Namespace {
    #[prost(string, tag = "1")]
    name: String,
}

/// `containerd.services.containers.v1.GetContainerRequest`
#[derive(Clone, PartialEq, Message)]
struct GetContainer {
    #[prost(string, tag = "1")]
    id: String,
}

/// `containerd.services.containers.v1.GetContainerResponse`
#[derive(Clone, PartialEq, Message)]
struct Got {
    #[prost(message, optional, tag = "1")]
    container: Option<Container>,
}

/// `containerd.services.containers.v1.Container`, of which only the labels matter here.
#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(btree_map = "string, string", tag = "2")]
    labels: BTreeMap<String, String>,
}

/// The labels of a container, in whichever namespace it is: Kubernetes' and nerdctl's differ. `None`
/// where containerd does not know it.
///
/// # Errors
///
/// When containerd does not answer, or not as its API says.
pub async fn labels(stream: UnixStream, id: &str) -> Result<Option<BTreeMap<String, String>>> {
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(connection);
    let all: Namespaces = call(
        &mut sender,
        "containerd.services.namespaces.v1.Namespaces/List",
        "default",
        &ListNamespaces {},
    )
    .await?
    .context("it has no namespaces")?;
    // Docker's are docker's to tell of: containerd does not know their labels.
    for namespace in all.namespaces.iter().filter(|n| n.name != "moby") {
        let wanted = GetContainer { id: id.to_owned() };
        let got: Option<Got> = call(
            &mut sender,
            "containerd.services.containers.v1.Containers/Get",
            &namespace.name,
            &wanted,
        )
        .await?;
        if let Some(container) = got.and_then(|got| got.container) {
            return Ok(Some(container.labels));
        }
    }
    Ok(None)
}

/// What a container is called: by who made it, or the beginning of its id.
pub fn name(labels: &BTreeMap<String, String>, id: &str) -> String {
    let label = |key: &str| labels.get(key).filter(|value| !value.is_empty());
    let pod = label("io.kubernetes.pod.name").zip(label("io.kubernetes.container.name"));
    match (pod, label("nerdctl/name")) {
        (Some((pod, container)), _) => format!("{pod}-{container}"),
        (None, Some(name)) => name.clone(),
        (None, None) => id.chars().take(12).collect(),
    }
}

/// One call (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). `None` for what is not found.
async fn call<T: Message + Default>(
    sender: &mut SendRequest<Full<Bytes>>,
    method: &str,
    namespace: &str,
    message: &impl Message,
) -> Result<Option<T>> {
    let message = message.encode_to_vec();
    // Not compressed; its length; itself.
    let mut body = vec![0];
    body.extend(u32::try_from(message.len())?.to_be_bytes());
    body.extend(message);
    let request = Request::post(format!("http://containerd/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(NAMESPACE, namespace)
        .body(Full::new(Bytes::from(body)))?;
    let answer = sender
        .send_request(request)
        .await
        .context("it does not answer")?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER)
        .collect()
        .await
        .map_err(|error| anyhow!("its answer breaks off: {error}"))?;
    // An answer without a message has the status at its head.
    let status = |headers: &HeaderMap| {
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        text("grpc-status").map(|code| (code, text("grpc-message").unwrap_or_default()))
    };
    let (code, said) = body
        .trailers()
        .and_then(status)
        .or_else(|| status(&head.headers))
        .with_context(|| format!("it answers {} without a status", head.status))?;
    match code.as_str() {
        "0" => {}
        NOT_FOUND => return Ok(None),
        _ => bail!("it answers {method} with {code}: {said}"),
    }
    let bytes = body.to_bytes();
    let Some(([0, ..], message)) = bytes.split_first_chunk::<5>() else {
        bail!("its answer to {method} is not understood");
    };
    let message = T::decode(message).context("its answer is not understood")?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let labels = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            pairs.collect()
        };
        let id = "0123456789abcdef";
        assert_eq!(name(&labels(&[]), id), "0123456789ab");
        assert_eq!(name(&labels(&[("nerdctl/name", "box")]), id), "box");
        let of_pod = [
            ("io.kubernetes.pod.name", "train-0"),
            ("io.kubernetes.container.name", "main"),
        ];
        assert_eq!(name(&labels(&of_pod), id), "train-0-main");
    }
}
