//! The name of a peer: a hint for people, never a proof.

/// A peer's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// The name.
    pub name: String,
    /// Who says so.
    pub source: DomainSource,
}

/// Who gave a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainSource {
    /// A name server told the agent this address for the name.
    Dns,
    /// The agent, in the ClientHello: nobody vouches for it.
    Sni,
    /// The agent, in the request: nobody vouches for it.
    Host,
}

impl DomainSource {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Sni => "sni",
            Self::Host => "host",
        }
    }
}
