"""http.client, one connection a thread. It has no pool and no retry: a connection that was closed while
idle is noticed by looking, as pools do, before the next request."""

import http.client
import select
import socket

import contract

args = contract.client_args()


class Way:
    def __init__(self, index, tally):
        self.tally, self.connection, self.opened = tally, None, 0

    def ask(self, method, path, data, first):
        try:
            self.connect()
            self.connection.request(method, path, body=data)
            answer = self.connection.getresponse()
            got = answer.read(1)
            first()
            got += answer.read()
            return answer.status, answer.headers, got
        except Exception:
            self.close()
            raise

    def connect(self):
        sock = self.connection and self.connection.sock
        if sock and not select.select([sock], [], [], 0)[0]:
            return
        self.close()
        self.connection = http.client.HTTPConnection(args.host, args.port, timeout=15)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.opened += 1
        if self.opened > 1:
            self.tally.reconnected()

    def close(self):
        if self.connection:
            self.connection.close()


contract.run(args, Way)
