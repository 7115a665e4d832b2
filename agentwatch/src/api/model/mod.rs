//! What the daemon's API says, and hears: the same types on both sides of the socket.
//!
//! Names are those of `agentwatch events -o json` where that has them. Times are RFC 3339 in UTC;
//! `…_ns` is `CLOCK_BOOTTIME` nanoseconds, with `pid` the identity of a process. What is not known is
//! absent. Fields may be added; those that are here stay.
//!
//! | method | path | gives |
//! |---|---|---|
//! | GET | `/v1/agents` | `[Agent]` |
//! | POST | `/v1/agents` | [`RunRequest`] → [`RunStarted`] |
//! | GET | `/v1/agents/{agent}` | [`Agent`] |
//! | POST | `/v1/agents/{agent}/end` | [`RunEnd`] → [`RunEnded`] |
//! | GET | `/v1/agents/{agent}/processes` | `[Process]` |
//! | GET | `/v1/agents/{agent}/flows` | `[Flow]` |
//! | GET | `/v1/agents/{agent}/files` | `[FileChange]` |
//! | POST | `/v1/agents/{agent}/actions` | [`ActionRequest`] → [`Action`] |
//! | GET | `/v1/agents/{agent}/incidents` | `[Incident]` |
//! | GET | `/v1/events?agent=&kind=&since=&limit=&after=` | [`EventPage`] |
//! | GET | `/v1/events/stream?agent=&kind=` | server-sent events, see [`StreamItem`] |
//! | GET | `/v1/findings?agent=&since=` | `[Finding]` |
//! | GET | `/v1/incidents?agent=&since=` | `[Incident]` |
//! | GET | `/v1/actions?agent=&since=` | `[Action]` |
//! | GET | `/v1/policy/{agent}` | [`PolicyInForce`] |
//! | GET | `/v1/doctor` | [`Doctor`] |
//! | GET | `/v1/health` | [`Health`] |
//! | GET | `/metrics` | Prometheus' text format |
//! | GET | `/v1/openapi.json` | this, for machines |
//!
//! `{agent}` is a name or an id. An error is [`ApiError`] with a status of 400 and above.

mod agent;
mod daemon;
mod happened;
mod incident;
mod run;

pub use agent::{
    Agent, AgentState, DeletionBudget, EventCounts, FindingCounts, Flow, FoundBy, Process,
    ProcessRates, ProcessTotals, Rates, Totals,
};
pub use daemon::{
    ApiError, Check, Doctor, EventQuery, Health, KindName, PolicyInForce, SinceQuery, StreamQuery,
};
pub use happened::{
    Action, ActionRequest, AskedBy, Event, EventPage, FileChange, Finding, Gone, Missed,
    StreamItem, Verb,
};
pub use incident::{Incident, Link, Step, StepKind};
pub use run::{RunEnd, RunEnded, RunRequest, RunStarted};

pub use crate::finding::Severity;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::row::Row;

    /// What a client reads is what the program prints.
    #[test]
    fn an_event_reads_as_it_is_printed() {
        let row = Row {
            time_ns: 1_500_000_000,
            agent: "a".to_owned(),
            kind: "exec".to_owned(),
            pid: 7,
            exe: Some("/bin/sh".to_owned()),
            detail: Some(serde_json::json!({"argv": ["sh"]}).into()),
            ..Row::default()
        };
        let printed = serde_json::to_value(&row).unwrap();
        let event: Event = serde_json::from_value(printed.clone()).unwrap();
        assert_eq!(event.time, "1970-01-01T00:00:01.500000000Z");
        assert_eq!(event.rest["detail"]["argv"][0], "sh");
        assert_eq!(serde_json::to_value(&event).unwrap(), printed);
        assert_eq!(serde_json::from_value::<Row>(printed).unwrap(), row);
    }

    #[test]
    fn a_request_with_something_unknown_is_refused() {
        let read = |text: &str| serde_json::from_str::<ActionRequest>(text);
        assert_eq!(read(r#"{"action":"freeze"}"#).unwrap().action, Verb::Freeze);
        assert!(read(r#"{"action":"freeze","force":true}"#).is_err());
        assert!(read(r#"{"action":"obliterate"}"#).is_err());
    }

    #[test]
    fn how_it_was_found_says_how() {
        let found = FoundBy::Cgroup {
            glob: "a/*".to_owned(),
        };
        assert_eq!(
            serde_json::to_string(&found).unwrap(),
            r#"{"by":"cgroup","glob":"a/*"}"#
        );
    }
}
