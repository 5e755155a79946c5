"""Says goodbye as drainctl makes other servers do: from one second after the first slow request on, each
response says `Connection: close`, and it is left to the client to close; a connection that is idle then
gets a FIN. Nothing else is done, so what fails here is for the client to explain."""

import socket
import threading
import time

import http_server

IDLE = 1
handlers = set()
goodbye = threading.Event()


class Handler(http_server.Handler):
    idle_since = None

    def setup(self):
        super().setup()
        handlers.add(self)

    def finish(self):
        handlers.discard(self)
        super().finish()

    def handle_one_request(self):
        self.idle_since = time.monotonic()
        super().handle_one_request()

    def parse_request(self):
        self.idle_since = None
        if self.path_is_slow():
            threading.Timer(1, say_goodbye).start()
        return super().parse_request()

    def path_is_slow(self):
        return b" /slow/" in self.raw_requestline

    def end_headers(self):
        if goodbye.is_set():
            self.send_header("Connection", "close")
            # The server itself is to know of nothing.
            self.close_connection = False
        super().end_headers()


def say_goodbye():
    goodbye.set()
    while True:
        for handler in list(handlers):
            since = handler.idle_since
            if since and time.monotonic() - since > IDLE:
                handler.idle_since = None
                try:
                    handler.connection.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # It has just ended.
        time.sleep(0.05)


http_server.serve(Handler)
