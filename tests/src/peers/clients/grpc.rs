//! Clients of gRPC.

use super::python;
use crate::peers::{Client, Protocol};

const PROTOCOLS: &[Protocol] = &[Protocol::Grpc];

pub(super) const CLIENTS: &[Client] = &[
    Client {
        name: "grpcio",
        protocols: PROTOCOLS,
        kinds: &[],
        launch: |place, _| Ok(vec![python::script(place, "python/grpc_client.py", &[])?]),
    },
    Client {
        name: "grpc-go",
        protocols: PROTOCOLS,
        kinds: &[],
        launch: |place, _| Ok(vec![place.client(place.built("go/grpc_client")?, &[])]),
    },
];
