"""http.server, with keep-alive and a thread for each connection."""

import http.server
import time

import contract


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def head(self, size, status=200):
        self.send_response(status)
        if size is not None:
            self.send_header("Content-Length", str(size))
        self.end_headers()

    def do_GET(self):
        _, kind, what = self.path.split("/")
        size = int(what)
        if kind == "body":
            self.head(size)
            self.wfile.write(contract.body(size))
        elif kind == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in contract.pieces(size):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif kind == "slow":
            self.head(size)
            for piece in contract.pieces(size):
                self.wfile.write(piece)
                time.sleep(contract.PAUSE)
        elif kind == "status":
            self.head(None, size)
        else:
            self.send_error(404)

    def do_HEAD(self):
        self.head(int(self.path.split("/")[2]))

    def do_POST(self):
        id = self.path.split("/")[2]
        self.rfile.read(int(self.headers["Content-Length"]))
        executed.add(id)
        self.head(len(id))
        self.wfile.write(id.encode())

    def log_message(self, *_):
        pass


def serve(handler=Handler):
    global executed
    args = contract.server_args()
    executed = contract.Executed(args.executed)
    http.server.ThreadingHTTPServer.request_queue_size = 128
    http.server.ThreadingHTTPServer(("", args.port), handler).serve_forever()


if __name__ == "__main__":
    serve()
