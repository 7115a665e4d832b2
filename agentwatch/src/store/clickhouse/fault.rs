//! Why ClickHouse did not take something.

use clickhouse::error::Error;

use crate::store::export::{Class, Fault, fault::chain, http::is_tls};

/// What to do about it.
const fn advice(class: Class) -> &'static str {
    match class {
        Class::Unreachable => "look whether ClickHouse runs, and whether `url` is right",
        Class::Timeout => "look what keeps ClickHouse, or the network",
        Class::Busy => "it is tried again; look at ClickHouse's load, disk and keeper",
        Class::Damaged => "it is sent again; look at the network between here and ClickHouse",
        Class::Server | Class::File => "look into ClickHouse's log",
        Class::Authentication => {
            "set `user` and `password_file`, or grant INSERT and SELECT on the database"
        }
        Class::Schema => "run `agentwatch db init`",
        Class::Certificate => "name the certificate that vouches for the server: `ca_file`",
    }
}

/// A failure of a kind.
pub fn of(class: Class, message: &str) -> Fault {
    Fault::new(class, message, advice(class))
}

/// No answer in time.
pub fn timeout() -> Fault {
    of(Class::Timeout, "no answer in time")
}

/// The kind by an error's number (ClickHouse's `src/Common/ErrorCodes.cpp`).
fn class(code: u32) -> Class {
    match code {
        // Unknown user, wrong password, required password, address not allowed, read only, access denied,
        // authentication failed.
        164 | 192..=195 | 497 | 516 => Class::Authentication,
        // No such column, wrong sizes or types, unknown identifier, table or database, cannot convert,
        // incorrect data.
        8 | 10 | 16 | 20 | 44 | 47 | 53 | 60 | 70 | 81 | 117 => Class::Schema,
        // Timeout exceeded, too slow, socket timeout.
        159 | 160 | 209 => Class::Timeout,
        // Too many queries, keeper away, aborted, memory limit, read-only table, no space, too many parts,
        // unknown status, cancelled, overloaded, keeper.
        202 | 225 | 236 | 241..=243 | 252 | 319 | 394 | 745 | 999 => Class::Busy,
        // Unexpected end, cannot read all, checksum, unknown compression, too large a size, cannot
        // decompress, unknown codec.
        32 | 33 | 40 | 89 | 131 | 271 | 432 => Class::Damaged,
        210 => Class::Unreachable,
        _ => Class::Server,
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::BadResponse(text) => said(&text),
            Error::TimedOut => timeout(),
            Error::Network(inner) => network(&*inner),
            Error::SchemaMismatch(text) => of(Class::Schema, &text),
            Error::Compression(inner) | Error::Decompression(inner) => {
                of(Class::Damaged, &chain(&*inner))
            }
            other => of(Class::Server, &chain(&other)),
        }
    }
}

/// What the server said. In the middle of an answer an exception may stand among binary data.
fn said(text: &str) -> Fault {
    let Some(at) = text.find("Code: ") else {
        let status = text.split_whitespace().next().unwrap_or_default();
        let class = match status {
            "401" | "403" => Class::Authentication,
            "408" | "504" => Class::Timeout,
            "429" | "502" | "503" => Class::Busy,
            _ => Class::Server,
        };
        let readable = text.bytes().take(80).all(|b| (b' '..=b'~').contains(&b));
        let message = if readable {
            text
        } else {
            "an answer that cannot be read"
        };
        return of(class, message);
    };
    let text = &text[at..];
    let digits: String = text["Code: ".len()..]
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let class = digits.parse().map_or(Class::Server, class);
    // What follows is the server's version.
    let text = text.split(" (version ").next().unwrap_or(text);
    of(class, &text.replacen("DB::Exception: ", "", 1))
}

fn network(error: &(dyn std::error::Error + 'static)) -> Fault {
    let class = if is_tls(error) {
        Class::Certificate
    } else {
        Class::Unreachable
    };
    of(class, &chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(text: &str) -> Fault {
        Fault::from(Error::BadResponse(text.to_owned()))
    }

    #[test]
    fn what_the_server_says_has_a_class() {
        let unknown = bad(
            "Code: 60. DB::Exception: Table aw.events does not exist. (UNKNOWN_TABLE) (version 26.7.3.1)",
        );
        assert_eq!(unknown.class, Class::Schema);
        assert_eq!(
            unknown.message,
            "Code: 60. Table aw.events does not exist. (UNKNOWN_TABLE)"
        );
        assert!(
            unknown.to_string().contains("agentwatch db init"),
            "{unknown}"
        );
        assert_eq!(
            bad("Code: 516. DB::Exception: x").class,
            Class::Authentication
        );
        assert_eq!(bad("Code: 241").class, Class::Busy);
        assert_eq!(
            bad("Code: 40. DB::Exception: Checksum").class,
            Class::Damaged
        );
        assert_eq!(bad("503 Service Unavailable").class, Class::Busy);
        assert_eq!(bad("Code: 999999999999999").class, Class::Server);
        assert!(unknown.class.is_permanent() && !Class::Busy.is_permanent());
    }

    #[test]
    fn binary_is_never_shown() {
        let fault = bad("\u{1}\u{0}\u{1b}[31mx\u{fffd}\u{7}");
        assert_eq!(fault.message, "an answer that cannot be read");
        let fault = bad("\u{1}\u{0}rows\u{7}Code: 159. DB::Exception: Timeout exceeded\u{1b}");
        assert_eq!(fault.class, Class::Timeout);
        assert_eq!(fault.message, "Code: 159. Timeout exceeded\\x1b");
    }
}
