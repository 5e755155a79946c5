"""What every Python peer shares: bodies, command lines, and the summary of a client.

The contract itself is in ../README.md."""

import argparse
import json
import os
import signal
import sys
import threading
import time

SIZES = [0, 1, 100, 1000, 10_000, 100_000]
SLOW = 90_000
PIECES = 30
PAUSE = 0.1
KINDS = ["body", "chunked", "head", "post", "status", "slow"]

_bodies = {}


def body(size):
    """Byte by byte what a body of this size is."""
    if size not in _bodies:
        period = bytes((i * 31 + size) % 251 for i in range(251))
        _bodies[size] = (period * (size // 251 + 1))[:size]
    return _bodies[size]


def pieces(size):
    """The body in as many pieces as a slow answer has."""
    whole, step = body(size), max(1, size // PIECES)
    return [whole[at : at + step] for at in range(0, size, step)]


class Executed:
    """The side effect of a POST: its id, on a line of its own."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def add(self, id):
        os.write(self.fd, f"{id}\n".encode())


def server_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--executed", required=True)
    return parser.parse_args()


def client_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--warm", type=int, default=1000)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=KINDS)
    args = parser.parse_args()
    args.host, _, port = args.url.removeprefix("http://").partition(":")
    args.port = int(port or 80)
    return args


class Wrong(Exception):
    """A response that is complete and not right."""


class Tally:
    """How a client's requests went; says `warm` when the drain may begin, and knows when to stop."""

    def __init__(self, warm, slow):
        self.lock = threading.Lock()
        self.warm, self.slow_waits = warm, slow
        self.responses = self.reconnects = self.sent = self.answered = 0
        self.bad, self.bad_count, self.errors, self.error_count = [], 0, [], 0
        self.enough, self.stop = threading.Event(), threading.Event()
        self.ids = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop.set())

    def right(self):
        with self.lock:
            self.responses += 1
            if self.responses == self.warm:
                self.enough.set()
                if not self.slow_waits:
                    print("warm", flush=True)

    def slow_begun(self):
        """The first bytes of the slow answer are here."""
        print("warm", flush=True)

    def pause(self, index, connections):
        """The pace: see the contract."""
        if connections > 1 and index == connections - 1:
            self.stop.wait(1.5)
        elif index > 0 and self.enough.is_set():
            self.stop.wait(0.002)

    def failed(self, what, error):
        with self.lock:
            text = f"{what}: {type(error).__name__}: {error}"
            if isinstance(error, Wrong):
                self.bad_count += 1
                self.bad = (self.bad + [text])[:5]
            else:
                self.error_count += 1
                self.errors = (self.errors + [text])[:5]

    def reconnected(self):
        with self.lock:
            self.reconnects += 1

    def post_sent(self):
        """A new id; counted as sent."""
        with self.lock:
            self.sent += 1
            return f"{os.getpid()}-{self.sent}"

    def post_answered(self):
        with self.lock:
            self.answered += 1

    def summary(self):
        names = ["responses", "bad", "bad_count", "errors", "error_count", "reconnects"]
        line = {name: getattr(self, name) for name in names}
        line["posts"] = {"sent": self.sent, "answered": self.answered}
        print(json.dumps(line), flush=True)


def requests(kinds):
    """Without end: (method, kind, path part) in the usual mix."""
    mix = []
    for size in SIZES:
        if "body" in kinds:
            mix.append(("GET", "body", size))
        if "chunked" in kinds:
            mix.append(("GET", "chunked", size))
        if "head" in kinds:
            mix.append(("HEAD", "body", size))
        if "post" in kinds:
            mix.append(("POST", "count", None))
    if "status" in kinds:
        mix += [("GET", "status", 204), ("GET", "status", 304)]
    while True:
        yield from mix


def check(method, kind, what, status, headers, got):
    """Insists on the right response; `headers` is a mapping that ignores case."""
    if kind == "status":
        if status != what or got:
            raise Wrong(f"{status} with {len(got)} bytes instead of {what}")
        return
    if status != 200:
        raise Wrong(f"status {status}")
    if method == "HEAD":
        if int(headers.get("content-length") or 0) != what or got:
            raise Wrong(f"HEAD: {headers.get('content-length')} announced, {len(got)} sent")
    elif kind == "count":
        if got.decode().strip() != what:
            raise Wrong(f"POST answered {got[:40]!r}")
    elif got != body(what):
        raise Wrong(f"{len(got)} bytes instead of {what}, or others")


def run(args, connect):
    """A client of threads. `connect(index, tally)` is the worker's way to the server: an object with
    `ask(method, path, data, first)`, which returns status, headers and body, calls `first` when the body
    begins, and leaves no broken connection behind; and with `close()`."""
    tally = Tally(args.warm, "slow" in args.kinds)
    ways = [connect(index, tally) for index in range(args.connections)]
    run_threads(args, tally, lambda index: worker(args, tally, index, ways[index]))


def run_threads(args, tally, work):
    """`work(index)` for each worker on a thread of its own, and the summary at the end."""
    threads = [threading.Thread(target=work, args=[index], daemon=True)
               for index in range(args.connections)]
    for thread in threads:
        thread.start()
    # Another thread may be the one to get the signal (one that has just started a program, say); Python runs
    # the handler in this one, when it next does anything.
    while not tally.stop.wait(0.2):
        pass
    end = time.monotonic() + 15
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
        if thread.is_alive():
            tally.failed("stop", TimeoutError("a request did not end"))
    tally.summary()
    sys.stdout.flush()
    os._exit(0)


def worker(args, tally, index, way):
    slow_waits = index == 0 and "slow" in args.kinds
    for request in requests(args.kinds):
        if tally.stop.is_set():
            break
        if slow_waits and tally.enough.is_set():
            slow_waits = False
            one(tally, way, "GET", "slow", SLOW, tally.slow_begun)
        one(tally, way, *request)
        tally.pause(index, args.connections)
    way.close()


def one(tally, way, method, kind, what, first=lambda: None):
    data = None
    if kind == "count":
        what, data = tally.post_sent(), body(1000)
    try:
        status, headers, got = way.ask(method, f"/{kind}/{what}", data, first)
        check(method, kind, what, status, headers, got)
    except Exception as error:
        tally.failed(f"{method} /{kind}/{what}", error)
        tally.stop.wait(0.05)
        return
    if kind == "count":
        tally.post_answered()
    tally.right()
