"""curl as a client by the contract: each worker runs curl with a long list of requests on one connection
that is kept, and checks what comes. With `--http2`, HTTP/2 by prior knowledge, with `--upgrade` by upgrade, and one
request a run: curl 7.88 fails when it uses such a connection again ("Error in the HTTP2 framing layer"), with any
server. It also fails when much of a body comes right behind the 101 response, hence no large ones there."""

import os
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../python"))
import contract

# Our flag, and the option of curl.
HTTP2 = {"--http2": "http2-prior-knowledge", "--upgrade": "http2"}

http2 = next((option for flag, option in HTTP2.items() if flag in sys.argv), None)
if http2:
    sys.argv = [arg for arg in sys.argv if arg not in HTTP2]
args = contract.client_args()
if http2 == HTTP2["--upgrade"]:
    contract.SIZES.remove(100_000)
tally = contract.Tally(args.warm, "slow" in args.kinds)

REPORT = "%{stderr}%{http_code} %{size_download} %{exitcode} %{num_connects} " \
         "length=%header{content-length} %{errormsg}\\n"


class Curl:
    """One run: the requests in turn, on one connection unless curl has reason to open another."""

    def __init__(self, requests, rate):
        self.requests = []
        parts = []
        for method, kind, what in requests:
            lines = [f'write-out = "{REPORT}"', "silent", "no-buffer", "max-time = 10"]
            if http2:
                lines.append(http2)
            if http2 and kind == "slow":
                # For servers of files, which know no other way to be slow.
                lines.append("limit-rate = 30000")
            if kind == "count":
                what = tally.post_sent()
                lines.append(f'data-binary = "{"x" * 1000}"')
                # The answer then has two heads, 100 and 200.
                lines.append('header = "Expect: 100-continue"')
            if method == "HEAD":
                lines += ["head", 'output = "/dev/null"']
            self.requests.append((method, kind, what))
            lines.append(f'url = "{args.url}/{kind}/{what}"')
            parts.append("\n".join(lines))
        command = ["curl", "--disable", "--config", "-"] + (["--rate", rate] if rate else [])
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        self.text = "\nnext\n".join(parts).encode()
        self.bytes, self.more, self.ended = bytearray(), threading.Condition(), False
        for part in (self.feed, self.collect):
            threading.Thread(target=part, daemon=True).start()

    def feed(self):
        self.process.stdin.write(self.text)
        self.process.stdin.close()

    def collect(self):
        while data := os.read(self.process.stdout.fileno(), 1 << 16):
            with self.more:
                self.bytes += data
                self.more.notify_all()
        with self.more:
            self.ended = True
            self.more.notify_all()

    def take(self, length):
        """The next bytes of the bodies."""
        with self.more:
            self.more.wait_for(lambda: len(self.bytes) >= length or self.ended)
            got = bytes(self.bytes[:length])
            del self.bytes[:length]
            return got

    def begun(self):
        """Waits for the first byte of a body."""
        with self.more:
            self.more.wait_for(lambda: self.bytes or self.ended)

    def judge(self):
        """Each request's outcome as it comes; how many connections were opened."""
        connects = 0
        for (method, kind, what), line in zip(self.requests, self.process.stderr):
            status, size, code, opened, length, error = line.decode().rstrip("\n").split(" ", 5)
            connects += int(opened)
            got = self.take(int(size))
            try:
                if code != "0":
                    raise ConnectionError(f"curl's exit code {code}: {error}")
                headers = {"content-length": length.removeprefix("length=")}
                contract.check(method, kind, what, int(status), headers, got)
                if kind == "count":
                    tally.post_answered()
                tally.right()
            except Exception as error:
                tally.failed(f"{method} /{kind}/{what}", error)
        return connects


def work(index):
    rests = args.connections > 1 and index == args.connections - 1
    # The one that rests is stopped in the middle of its list, and so has no POSTs.
    kinds = [kind for kind in args.kinds if kind != "post"] if rests else args.kinds
    mix = contract.requests(kinds)
    slow_waits = index == 0 and "slow" in args.kinds
    while not tally.stop.is_set():
        if slow_waits and tally.enough.is_set():
            slow_waits = False
            slow = Curl([("GET", "slow", contract.SLOW)], None)
            slow.begun()
            tally.slow_begun()
            slow.judge()
        length, rate = (20, "40/m") if rests else (2000, None) if index == 0 else (800, "400/s")
        if http2:
            length, rate = 1, None
        run = Curl([next(mix) for _ in range(length)], rate)
        if rests:
            threading.Thread(target=lambda run=run: (tally.stop.wait(), run.process.terminate()),
                             daemon=True).start()
        for _ in range(max(0, run.judge() - 1)):
            tally.reconnected()
        run.process.wait()
        if http2:
            tally.pause(index, args.connections)


contract.run_threads(args, tally, work)
