//! Servers of gRPC.

use crate::peers::{Protocol, Server};

const PROTOCOLS: &[Protocol] = &[Protocol::Grpc];

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "grpcio",
        protocols: PROTOCOLS,
        kinds: &[],
        launch: |place, _| {
            let script = place.source("python/grpc_server.py");
            Ok(place.server(place.built("python/bin/python")?, &[&script]))
        },
    },
    Server {
        name: "grpc-go",
        protocols: PROTOCOLS,
        kinds: &[],
        launch: |place, _| Ok(place.server(place.built("go/grpc_server")?, &[])),
    },
];
