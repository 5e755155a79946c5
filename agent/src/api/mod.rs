//! The HTTP interface (HTTP/1.1 and JSON on a Unix socket): types shared with the command line, the
//! server, and who may do what.

pub mod protocol;
