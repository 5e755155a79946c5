"""h2load as a client by the contract, as far as it goes. It knows no end but that of its time, which is long enough
for a drain here; what is under way then is not counted. All bodies have one size, so the sum of bytes can be checked. At a
GOAWAY it goes on with what is under way, but counts each request that it would begin as failed, and then gives up."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../python"))
import contract

SECONDS = 10
SIZE = 10_000

args = contract.client_args()
signal.signal(signal.SIGTERM, lambda *_: None)
urls = [f"{args.url}/{kind}/{SIZE}" for kind in ("body", "chunked") if kind in args.kinds]
with tempfile.TemporaryDirectory() as folder:
    log = os.path.join(folder, "log")
    h2load = subprocess.Popen(["h2load", f"-D{SECONDS}", f"-c{args.connections}", "-m2", "-t1", f"--log-file={log}",
                               *urls], stdout=subprocess.PIPE, text=True)

    def watch():
        """A line is written for each response."""
        while not os.path.exists(log):
            threading.Event().wait(0.01)
        with open(log) as lines:
            count = 0
            while count < args.warm and h2load.poll() is None:
                count += sum(1 for _ in lines)
                threading.Event().wait(0.01)
        print("warm", flush=True)

    threading.Thread(target=watch, daemon=True).start()
    text = h2load.communicate()[0]


def number(pattern):
    return int(re.search(pattern, text)[1])


done, good = number(r"(\d+) done"), number(r"(\d+) 2xx")
errors = number(r"(\d+) failed")
data = number(r"\((\d+)\) data")
# The bytes of what was under way at the end are counted, too.
most = (good + 2 * args.connections) * SIZE
bad = done - good - errors if good * SIZE <= data <= most else 1
lines = re.findall(r"(?:requests|status codes|traffic|Process).*", text)[-5:]
print(json.dumps({
    "responses": good, "bad": lines if bad else [], "bad_count": bad, "errors": lines if errors else [],
    "error_count": errors, "reconnects": 0, "posts": {"sent": 0, "answered": 0},
}))
