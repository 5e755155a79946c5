//! What an agent's TCP endpoint wants to see, as options.

use std::path::PathBuf;

use clap::Args;

use super::{agent::AgentAddress, text};

/// What an agent's TCP endpoint wants to see.
#[derive(Debug, Default, Args)]
pub(super) struct Access {
    /// With --agent https://…: the file whose first line is the agent's token [default: the variable DRAINCTL_TOKEN]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub(super) token_file: Option<PathBuf>,
    /// With --agent https://…: the authorities (PEM) that may have signed the agent's certificate
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub(super) ca_file: Option<PathBuf>,
    /// With --agent https://…: our certificate (PEM), if the agent knows us by one
    #[arg(long, global = true, value_name = "FILE", requires = "key", help_heading = "Everywhere")]
    pub(super) cert: Option<PathBuf>,
    /// The private key (PEM) of --cert
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        requires = "cert",
        help_heading = "Everywhere"
    )]
    pub(super) key: Option<PathBuf>,
}

impl Access {
    /// The options of this address and access, each with a space before it; none for the default. A token from the environment is
    /// there for the next command too.
    pub(super) fn options(&self, address: &AgentAddress) -> String {
        let agent = Some(address).filter(|address| **address != AgentAddress::default());
        let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        [
            ("--agent", agent.map(AgentAddress::to_string)),
            ("--ca-file", file(&self.ca_file)),
            ("--token-file", file(&self.token_file)),
            ("--cert", file(&self.cert)),
            ("--key", file(&self.key)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some(format!(" {name} {}", text::quoted(&value?))))
        .collect()
    }
}
