"""http.client, one connection a thread. It has no pool and no retry: a connection that was closed while
idle is noticed by looking, as pools do, before the next request."""

import http.client
import select
import socket

import contract


class Worker:
    def __init__(self, args, tally):
        self.args, self.tally = args, tally
        self.connection, self.opened = None, 0

    def connect(self):
        if self.connection and self.connection.sock:
            if not select.select([self.connection.sock], [], [], 0)[0]:
                return self.connection
            self.connection.close()
        self.connection = http.client.HTTPConnection(self.args.host, self.args.port, timeout=15)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.opened += 1
        if self.opened > 1:
            self.tally.reconnected()
        return self.connection

    def ask(self, method, kind, what):
        data = None
        if kind == "count":
            what, data = self.tally.post_sent(), contract.body(1000)
        try:
            connection = self.connect()
            connection.request(method, f"/{kind}/{what}", body=data)
            answer = connection.getresponse()
            got = b""
            if kind == "slow":
                got = answer.read(1)
                self.tally.slow_begun()
            got += answer.read()
            contract.check(method, kind, what, answer.status, answer.headers, got)
            if kind == "count":
                self.tally.post_answered()
            self.tally.right()
        except (OSError, http.client.HTTPException, contract.Wrong) as error:
            self.tally.failed(f"{method} /{kind}/{what}", error)
            self.connection.close()


def work(args, tally, index):
    worker = Worker(args, tally)
    slow_waits = index == 0 and "slow" in args.kinds
    for request in contract.requests(args.kinds):
        if tally.stop.is_set():
            break
        if slow_waits and tally.enough.is_set():
            slow_waits = False
            worker.ask("GET", "slow", contract.SLOW)
        worker.ask(*request)
        tally.pause(index, args.connections)
    if worker.connection:
        worker.connection.close()


args = contract.client_args()
contract.run(args, work)
