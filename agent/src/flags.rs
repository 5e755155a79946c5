//! The command line of `drain-agent`. It is here and not in the program because `drainctl man` writes its page.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

use clap::{Parser, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::{
    api::tcp,
    daemon::Options,
    pods::{ClusterOptions, Mode},
};

/// Shown at the end of `--help`.
const EXIT_CODES: &str = "\
Exit codes:
    0  stopped by SIGTERM or SIGINT; of --uninstall: everything was removed
    1  it could not start, or not remove everything
    2  wrong options, or a file of registries that cannot be used";

/// Drains connections of TCP servers on this node, asked by `drainctl` over a Unix socket.
///
/// Stopping it (SIGTERM, SIGINT) changes nothing for anybody's traffic: what it keeps below --pin-dir goes on, and
/// the next agent takes it over. To remove everything, stop it and run `drain-agent --uninstall`.
#[derive(Debug, Parser)]
#[command(name = "drain-agent", version, after_help = EXIT_CODES)]
pub struct Flags {
    /// Where clients connect; the folder is made if it is not there.
    #[arg(long, value_name = "PATH", default_value = "/run/drainctl/agent.sock")]
    pub socket: PathBuf,
    /// Serve over TCP too, there: health and metrics for everybody, all the rest for operators.
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Over TCP")]
    pub listen: Option<SocketAddr>,
    /// Our certificate (PEM, with those between it and its authority); read again when it changes.
    #[arg(long, value_name = "FILE", requires_all = ["listen", "tls_key"], help_heading = "Over TCP")]
    pub tls_cert: Option<PathBuf>,
    /// The private key (PEM) of --tls-cert.
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Over TCP")]
    pub tls_key: Option<PathBuf>,
    /// Who shows a certificate that these authorities (PEM) have signed is an operator.
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Over TCP")]
    pub tls_client_ca: Option<PathBuf>,
    /// Who shows a line of this file (`Authorization: Bearer LINE`) is an operator; read again when it changes.
    #[arg(long, value_name = "FILE", requires = "listen", help_heading = "Over TCP")]
    pub token_file: Option<PathBuf>,
    /// Serve without TLS on other than loopback addresses, too: everybody on the way can read the token.
    #[arg(long, requires = "listen", conflicts_with = "tls_cert", help_heading = "Over TCP")]
    pub listen_plain: bool,
    /// Answer HAProxy's agent checks there (`agent-check agent-send "port=8080&netns=host\n"`): to everybody who asks.
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Over TCP")]
    pub agent_check: Option<SocketAddr>,
    /// Where kernel objects are kept, on a bpffs; the folder is made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/drainctl")]
    pub pin_dir: PathBuf,
    /// Put the static drainctl into this folder of the node, for pods to mount: /opt/drainctl/bin, as a rule.
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// Remove everything that agents have left in the kernel below --pin-dir (and drainctl from --bin-dir, if this
    /// version has put it there), and end. Gates open.
    #[arg(long)]
    pub uninstall: bool,
    /// What to log to stderr: a level, or directives as in `info,drainctl_agent::api=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub log: String,
    /// How to write the log.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Root of the cgroup v2 hierarchy [default: as mounted, from /proc/mounts].
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,
    /// The kubelet's cgroup (v2): connections opened in it are probes, which pass every gate and do not count
    /// [default: that of the process `kubelet`].
    #[arg(long, value_name = "PATH")]
    pub probe_cgroup: Option<PathBuf>,
    /// Most connections tracked at once on this node; beyond it counts are unknown, never wrong.
    #[arg(long, value_name = "N", default_value = "262144")]
    pub max_flows: NonZeroU32,
    /// Most listening ports tracked at once on this node.
    #[arg(long, value_name = "N", default_value = "16384")]
    pub max_services: NonZeroU32,
    /// Most clients remembered on this node, for `drainctl drain --keep-clients`; the oldest make room. 0: none are,
    /// and --keep-clients is refused.
    #[arg(long, value_name = "N", default_value = "65536")]
    pub client_history: u32,
    /// Most connections carried to peers at once (drainctl drain --new forward); beyond it they are reset.
    #[arg(long, value_name = "N", default_value = "10000")]
    pub max_carried: NonZeroU32,
    /// Tell the registries of this file (YAML) of drains: that a server leaves, before its port closes, and that it is
    /// back, once it is open. Only root may be able to write to it.
    #[arg(long, value_name = "FILE")]
    pub registries: Option<PathBuf>,
    /// Where names, grace periods and endpoints of pods come from.
    #[command(flatten)]
    pub pods: PodFlags,
}

/// Where names, grace periods and endpoints of pods come from.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct PodFlags {
    /// Ask the Kubernetes API for pods and their endpoints: if a service account or --kubeconfig and the node's name
    /// are there, never, or else do not start.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Kubernetes::Auto)]
    pub kubernetes: Kubernetes,
    /// How to reach the API [default: the service account of the agent's own pod].
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node in Kubernetes [default: the environment variable NODE_NAME].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Socket of the container runtime, asked for pods where the API is not [default: the first there is of
    /// containerd's, k3s', CRI-O's and cri-dockerd's].
    #[arg(long, value_name = "PATH")]
    pub cri_socket: Option<PathBuf>,
    /// The kubelet's folder of logs, whose names tell which pods there are.
    #[arg(long, value_name = "DIR", default_value = "/var/log/pods")]
    pub pod_logs: PathBuf,
}

/// When the Kubernetes API is asked.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kubernetes {
    /// If it can be reached as far as the flags say.
    Auto,
    /// Never.
    Off,
    /// Or else the agent does not start.
    Require,
}

impl PodFlags {
    fn cluster(&self) -> ClusterOptions {
        let mode = match self.kubernetes {
            Kubernetes::Auto => Mode::Auto,
            Kubernetes::Off => Mode::Off,
            Kubernetes::Require => Mode::Require,
        };
        let from_environment = || std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
        let node = self.node_name.clone().or_else(from_environment);
        ClusterOptions { mode, kubeconfig: self.kubeconfig.clone(), node }
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// JSON objects, one a line.
    Json,
}

/// Checks a filter without keeping it: it cannot be cloned, as clap would have it.
fn log_filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Flags {
    fn tcp(&self) -> Option<tcp::Options> {
        let files = |(cert, key): (&PathBuf, &PathBuf)| tcp::TlsFiles {
            cert: cert.clone(),
            key: key.clone(),
            client_ca: self.tls_client_ca.clone(),
        };
        Some(tcp::Options {
            listen: self.listen?,
            tls: self.tls_cert.as_ref().zip(self.tls_key.as_ref()).map(files),
            token_file: self.token_file.clone(),
            plain: self.listen_plain,
        })
    }
}

impl From<Flags> for Options {
    fn from(flags: Flags) -> Self {
        Self {
            tcp: flags.tcp(),
            agent_check: flags.agent_check,
            socket: flags.socket,
            pin_dir: flags.pin_dir,
            cgroup: flags.cgroup,
            probe_cgroup: flags.probe_cgroup,
            max_flows: flags.max_flows.get(),
            max_services: flags.max_services.get(),
            client_history: flags.client_history,
            max_carried: flags.max_carried.get(),
            cluster: flags.pods.cluster(),
            cri_socket: flags.pods.cri_socket,
            pod_logs: flags.pods.pod_logs,
            registries: Vec::new(),
            version: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_are_consistent_and_only_those_that_work_exist() {
        Flags::command().debug_assert();
        for absent in ["--listen=:1", "--log=a=b", "--token-file=/x"] {
            let error = Flags::try_parse_from(["drain-agent", absent]).err().unwrap();
            assert_eq!(error.exit_code(), 2, "{absent}");
        }
        assert!(Flags::try_parse_from(["drain-agent", "--max-flows=0"]).is_err());
        assert!(Flags::try_parse_from(["drain-agent", "--log-format=json"]).is_ok());
    }
}
