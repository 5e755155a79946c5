"""httpx: one client and its pool for all threads, without retries. With `--http2` it speaks HTTP/2 with
prior knowledge, with a client and so a connection for each thread: threads that share one can number their
streams in the wrong order, which servers answer by ending the connection."""

import sys

import httpx

import contract

http2 = "--http2" in sys.argv
if http2:
    sys.argv.remove("--http2")
args = contract.client_args()
limits = httpx.Limits(max_connections=args.connections, max_keepalive_connections=args.connections,
                      keepalive_expiry=300)


def client():
    return httpx.Client(base_url=args.url, http1=not http2, http2=http2, limits=limits, timeout=15)


shared = client()


class Way:
    def __init__(self, index, tally):
        self.client = client() if http2 else shared

    def ask(self, method, path, data, first):
        with self.client.stream(method, path, content=data) as answer:
            got = b""
            for piece in answer.iter_raw():
                if not got:
                    first()
                got += piece
            return answer.status_code, answer.headers, got

    def close(self):
        if http2:
            self.client.close()


contract.run(args, Way)
