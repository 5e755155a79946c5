"""grpcio as the load of a rolling restart: channels that are kept, and on each of them a caller, and one stream after
the other: of the server's messages, and of messages to and fro. No call is made again that a server may have seen: there
is no retry policy. What grpcio does by itself stays on, as everywhere: a call that was given to a connection that then
got a GOAWAY, and was never sent, goes to another one (a transparent retry; docs/clients.md). The server is
grpc_server.py, and each call has an id that it notes, so that the harness sees it if one is made twice. Not a client of
the matrix: the summary tells failures apart by kind, as the harness's own clients do."""

import argparse
import itertools
import json
import os
import signal
import threading
import time

import grpc

import contract

PACE = 0.02
TALKS = 20
TIMEOUT = 20
SAMPLES = 20

parser = argparse.ArgumentParser()
parser.add_argument("--url", required=True)
parser.add_argument("--channels", type=int, required=True)
args = parser.parse_args()

stop = threading.Event()
lock = threading.Lock()
start = time.monotonic()
failed_at = []


class Broken(Exception):
    """What came is wrong, or not all."""


class Tally:
    """How the requests of one kind went."""

    def __init__(self):
        kinds = ["ok", "refused", "reset", "closed", "timeout", "truncated", "bad"]
        self.counts = dict.fromkeys(kinds, 0)
        self.samples = []

    def add(self, kind, text=None):
        with lock:
            self.counts[kind] += 1
            if kind != "ok":
                failed_at.append(time.monotonic())
            if text and len(self.samples) < SAMPLES:
                self.samples.append(f"at {time.monotonic() - start:.3f}s: {text}")

    def summary(self):
        return {**self.counts, "samples": self.samples}


def kind_of(error, messages):
    """The kind of a failure, in the words of the harness's own clients."""
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return "timeout"
    if messages > 0:
        return "truncated"
    if error.code() != grpc.StatusCode.UNAVAILABLE:
        return "bad"
    details = (error.details() or "").lower()
    return next((kind for kind in ["refused", "reset"] if kind in details), "closed")


class Channel:
    """A connection of its own, and the methods of the service."""

    def __init__(self, index):
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.insecure_channel(args.url.removeprefix("http://"), options)
        self.count = channel.unary_unary("/peers.Peer/Count")
        self.slow = channel.unary_stream("/peers.Peer/Slow")
        self.talk = channel.stream_stream("/peers.Peer/Talk")
        self.name = f"{os.getpid()}-{index}"
        self.calls = 0

    def call(self, first):
        self.calls += 1
        id = f"{self.name}-{self.calls}".encode()
        if self.count(id, timeout=TIMEOUT) != id:
            raise Broken("another id came back")
        first()

    def stream(self, first):
        got = []
        for message in count(self.slow(str(contract.SLOW).encode(), timeout=TIMEOUT)):
            got.append(message)
            first()
        if b"".join(got) != contract.body(contract.SLOW):
            raise Broken(f"{len(got)} messages that are not the body")

    def exchange(self, first):
        messages = [contract.body(100 + turn) for turn in range(TALKS)]
        returned = threading.Semaphore(1)

        def outgoing():
            for message in messages:
                if not returned.acquire(timeout=TIMEOUT):
                    return
                time.sleep(contract.PAUSE)  # not a wait for a state: the pace of the talk
                yield message

        got = []
        for message in count(self.talk(outgoing(), timeout=TIMEOUT)):
            got.append(message)
            returned.release()
            first()
        if got != messages:
            raise Broken(f"{len(got)} messages that are not those sent")


def count(stream):
    """The messages of a stream; an error knows how many there were."""
    messages = 0
    try:
        for message in stream:
            messages += 1
            yield message
    except grpc.RpcError as error:
        error.messages = messages
        raise


calls, streams = Tally(), Tally()
channels = [Channel(index) for index in range(args.channels)]
waiting = 2 * len(channels)


def work(kinds, tally):
    """One request after the other, kind by kind in turn, until it is time to stop."""
    begun = False

    def first():
        nonlocal begun
        if not begun:
            begun = True
            is_warm()

    for what in itertools.cycle(kinds):
        if stop.is_set():
            return
        try:
            what(first)
        except grpc.RpcError as error:
            kind = kind_of(error, getattr(error, "messages", 0))
            tally.add(kind, f"{what.__name__}: {error.code()}: {error.details()}")
        except Broken as error:
            tally.add("bad", f"{what.__name__}: {error}")
        else:
            tally.add("ok")
        stop.wait(PACE)


def is_warm():
    """Says so when every worker has had its first answer."""
    global waiting
    with lock:
        waiting -= 1
        if waiting == 0:
            print("warm", flush=True)


for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stop.set())
threads = []
for index, channel in enumerate(channels):
    # Not all at the same time.
    kinds = [channel.stream, channel.exchange][:: 1 if index % 2 else -1]
    threads.append(threading.Thread(target=work, args=[[channel.call], calls], daemon=True))
    threads.append(threading.Thread(target=work, args=[kinds, streams], daemon=True))
for thread in threads:
    thread.start()
stop.wait()
for thread in threads:
    thread.join()
summary = {"calls": calls.summary(), "streams": streams.summary(), "failed_at": failed_at}
print(json.dumps(summary), flush=True)
os._exit(0)
