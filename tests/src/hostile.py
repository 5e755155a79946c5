"""Clients of the agent that mean harm, or are broken: hundreds of connections of each kind, opened again when the
agent ends them. Arguments: the socket, and an id of a service. Says `attacking` once all have been tried."""

import resource
import select
import socket
import sys
import time

path, service = sys.argv[1:]
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
EACH = 286  # of seven kinds: 2,000

HEAD = "HTTP/1.1\r\nHost: agent\r\n"
POST = f"POST /v1/drains {HEAD}Content-Type: application/json\r\n"
GREETINGS = {
    "silent": b"",
    "slow head": b"GET /healthz HTTP/1.1\r\nX: ",
    "huge head": b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 100_000,
    "huge body": f"{POST}Content-Length: 1000000000\r\n\r\n".encode() + b" " * 200_000,
    "slow body": f"{POST}Content-Length: 60000\r\n\r\n".encode(),
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00" * 1000 + b"GET / HTTP/1.1\r\n\r\n" * 1000,
    "unread": f"GET /v1/events?services={service} {HEAD}\r\n".encode() * 200,
}


def attack(kind):
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    try:
        client.connect(path)
        client.send(GREETINGS[kind])
    except OSError:
        pass  # Refused, cut off or full: all are welcome.
    return client


kinds = list(GREETINGS) * EACH
clients = {}
for kind in kinds:
    client = attack(kind)
    clients[client.fileno()] = (client, kind)
print("attacking", flush=True)
poll = select.poll()
while True:
    for fd in clients:
        poll.register(fd, select.POLLIN if clients[fd][1] != "unread" else 0)
    ended = [fd for fd, _ in poll.poll(100)]
    for fd in ended:
        poll.unregister(fd)
        client, kind = clients.pop(fd)
        client.close()
    for fd in list(clients):
        client, kind = clients[fd]
        if kind.startswith("slow"):
            try:
                client.send(b"x")  # One byte at a time.
            except OSError:
                pass
    for _ in ended:
        kind = kinds[len(clients) % len(kinds)]
        client = attack(kind)
        clients[client.fileno()] = (client, kind)
    time.sleep(0.05)
