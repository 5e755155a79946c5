"""wrk as a client by the contract: one thread, the script beside, and SIGINT where we get SIGTERM."""

import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../python"))
import contract

args = contract.client_args()
script = os.path.join(os.path.dirname(__file__), "wrk.lua")
command = ["wrk", "-t1", f"-c{args.connections}", "-d600s", "--timeout", "15s", "-s", script, args.url]
wrk = subprocess.Popen(command + ["--", str(args.warm), ",".join(args.kinds)])
signal.signal(signal.SIGTERM, lambda *_: wrk.send_signal(signal.SIGINT))
sys.exit(wrk.wait())
