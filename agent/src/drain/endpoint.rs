//! What Kubernetes does about a server while it is drained.

use serde::{Deserialize, Serialize};

/// What the server is to the Services of Kubernetes, which send it its new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// It is in no pod, or nobody can tell: it is drained as everywhere else.
    #[default]
    Unknown,
    /// Its pod is being deleted: Services turn to other pods by themselves.
    Leaving,
    /// Its pod stays, and Services may well go on sending connections.
    Staying {
        /// Whether a Service has nobody else that is ready.
        alone: bool,
    },
}
