//! What the integration tests, the demo and the benchmarks stand on: real network namespaces, a node
//! with kube-proxy's real rules, real nginx servers, clients that count every failure, and guards that
//! leave nothing behind. Nothing here knows how the agent works; the binaries under test come from
//! the folder named by `DRAINCTL_DIST`, and only their documented outside is used.

pub mod agent;
pub mod apiserver;
pub mod bpf;
pub mod bpffs;
pub mod browser;
pub mod certs;
pub mod chaos;
pub mod cluster;
pub mod cmd;
pub mod ctl;
pub mod dist;
pub mod fixture;
pub mod fleet;
pub mod frames;
pub mod grpc;
pub mod haproxy;
pub mod heads;
pub mod held;
pub mod hostile;
pub mod http;
pub mod kube;
pub mod kubeapi;
pub mod kubelet;
pub mod kubeproxy;
pub mod leaving;
pub mod load;
pub mod mix;
pub mod net;
pub mod netns;
pub mod nginx;
pub mod options;
pub mod peers;
pub mod process;
pub mod registry;
pub mod rolling;
pub mod sandbox;
pub mod script;
pub mod sockmap;
pub mod ss;
pub mod tls;
pub mod tmux;
pub mod tunnel;
pub mod vanish;
pub mod wait;
pub mod wire;
pub mod world;
