"""grpcio as a client, without a retry policy; it repeats by itself what the server cannot have seen ("transparent
retry": what was never sent, or a stream above a GOAWAY's number). The last worker has a channel and so a connection of its own, which is idle
while it rests; all others share one."""

import grpc

import contract

TALKS = 10
TIMEOUT = 15

args = contract.client_args()
tally = contract.Tally(args.warm, True)


class Way:
    """A channel with the methods of the service."""

    def __init__(self):
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(f"{args.host}:{args.port}", options)
        self.body = self.channel.unary_unary("/peers.Peer/Body")
        self.count = self.channel.unary_unary("/peers.Peer/Count")
        self.slow = self.channel.unary_stream("/peers.Peer/Slow")
        self.talk = self.channel.stream_stream("/peers.Peer/Talk")


def same(got, wanted):
    if got != wanted:
        raise contract.Wrong(f"{len(got)} bytes instead of {len(wanted)}, or others")


def ask_body(way, size):
    same(way.body(str(size).encode(), timeout=TIMEOUT), contract.body(size))


def ask_count(way):
    id = tally.post_sent().encode()
    same(way.count(id, timeout=TIMEOUT), id)
    tally.post_answered()


def ask_talk(way):
    """Message by message: the next is sent when the one before has come back."""
    messages = [contract.body(100 + turn) for turn in range(TALKS)]
    returned = contract.threading.Semaphore(1)

    def outgoing():
        for message in messages:
            if not returned.acquire(timeout=TIMEOUT):
                return
            yield message

    count = 0
    for got in way.talk(outgoing(), timeout=TIMEOUT):
        same(got, messages[count])
        count += 1
        returned.release()
    if count != TALKS:
        raise contract.Wrong(f"{count} messages instead of {TALKS}")


def ask_slow(way):
    got = b""
    for message in way.slow(str(contract.SLOW).encode(), timeout=TIMEOUT):
        if not got:
            tally.slow_begun()
        got += message
    same(got, contract.body(contract.SLOW))


def one(what, *parts):
    try:
        what(*parts)
    except grpc.RpcError as error:
        tally.failed(what.__name__, ConnectionError(f"{error.code()}: {error.details()}"))
        tally.stop.wait(0.05)
    except Exception as error:
        tally.failed(what.__name__, error)
    else:
        tally.right()


def work(index):
    way = own if index == args.connections - 1 else shared
    slow_waits, turn = index == 0, 0
    while not tally.stop.is_set():
        if slow_waits and tally.enough.is_set():
            slow_waits = False
            one(ask_slow, way)
        if turn % 8 == 6:
            one(ask_count, way)
        elif turn % 8 == 7:
            one(ask_talk, way)
        else:
            one(ask_body, way, contract.SIZES[turn % 8])
        turn += 1
        tally.pause(index, args.connections)


shared, own = Way(), Way()
contract.run_threads(args, tally, work)
