//! The ways in which a pod is told that it is going to be stopped.

use clap::ValueEnum;

/// The workload, with the places where hooks go in capitals.
const WORKLOAD: &str = include_str!("../../kube/workloads/web.yaml");

/// The port of the hook's listener in a pod that asks for it.
const HOOK_PORT: u16 = 9876;

/// What the pods of a deployment have as preStop hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hook {
    /// None: SIGTERM comes at once.
    None,
    /// `sleep: 5`, as often recommended.
    Sleep,
    /// `drainctl drain`, mounted from the host.
    Exec,
    /// A request to the listener that the agent opens in the pod.
    Http,
}

impl Hook {
    /// As it is written in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no preStop",
            Self::Sleep => "preStop.sleep: 5",
            Self::Exec => "preStop.exec: drainctl",
            Self::Http => "preStop.httpGet: /drain",
        }
    }

    /// Whether drainctl has its hand in it, so that no request may fail.
    pub fn drains(self) -> bool {
        matches!(self, Self::Exec | Self::Http)
    }

    /// The workload's manifest with this hook in it.
    pub fn workload(self) -> String {
        let (annotations, mounts, volumes) = match self {
            Self::None | Self::Sleep => (String::new(), "", ""),
            Self::Exec => (
                String::new(),
                "{name: bin, mountPath: /opt/drainctl/bin, readOnly: true}, \
                 {name: socket, mountPath: /run/drainctl, readOnly: true}",
                "{name: bin, hostPath: {path: /opt/drainctl/bin}}, \
                 {name: socket, hostPath: {path: /run/drainctl}}",
            ),
            Self::Http => (format!("drainctl.dev/prestop-port: '{HOOK_PORT}'"), "", ""),
        };
        WORKLOAD
            .replace("ANNOTATIONS", &annotations)
            .replace("HTTP_LIFECYCLE", &self.lifecycle(80))
            .replace("GRPC_LIFECYCLE", &self.lifecycle(50051))
            .replace("MOUNTS", mounts)
            .replace("VOLUMES", volumes)
    }

    fn lifecycle(self, port: u16) -> String {
        match self {
            Self::None => String::new(),
            Self::Sleep => "preStop: {sleep: {seconds: 5}}".into(),
            Self::Exec => format!(
                "preStop: {{exec: {{command: [/opt/drainctl/bin/drainctl, drain, --port, '{port}']}}}}"
            ),
            Self::Http => {
                format!("preStop: {{httpGet: {{path: '/drain?port={port}', port: {HOOK_PORT}}}}}")
            }
        }
    }
}
