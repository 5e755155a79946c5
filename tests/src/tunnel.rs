//! A port that leads to a Unix socket, as `ssh -L PORT:SOCKET` makes one.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    thread,
};

use anyhow::Result;

/// Forwards each connection to a free port of 127.0.0.1 to the socket; for as long as the process lives.
pub fn to_socket(socket: PathBuf) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // Nobody there: the connection is closed.
            let Ok(server) = UnixStream::connect(&socket) else { continue };
            let _ = carry(client, server);
        }
    });
    Ok(addr)
}

fn carry(client: TcpStream, server: UnixStream) -> io::Result<()> {
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        copy(from_client, &to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        copy(server, &client);
        let _ = client.shutdown(Shutdown::Both);
    });
    Ok(())
}

fn copy(mut from: impl Read, mut to: impl Write) {
    let _ = io::copy(&mut from, &mut to);
}
