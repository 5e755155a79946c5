"""Says goodbye as drainctl makes other servers do: one second after the first slow request, every connection
gets a GOAWAY that refuses no stream (17 bytes between two frames, of which the server's own HTTP/2 layer
knows nothing), and a connection without a stream for a second then gets a FIN. Nothing else is done, so
what fails here is for the client to explain."""

import asyncio
import time

import h2.config
import h2.connection
import h2.events
from hyperframe.frame import GoAwayFrame

import contract

GOAWAY = b"\0\0\x08\x07\0\0\0\0\0" + b"\x7f\xff\xff\xff" + b"\0\0\0\0"
IDLE = 1

args = contract.server_args()
executed = contract.Executed(args.executed)
connections = set()
goodbye = False


class Connection(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.idle_since, self.told, self.ended = transport, time.monotonic(), False, False
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        # This library takes any GOAWAY for the end of the connection, but a client's own (Node's answer to
        # ours, for one) only says that it will accept no pushed stream.
        self.h2._frame_dispatch_table[GoAwayFrame] = lambda frame: ([], [])
        self.h2.initiate_connection()
        self.flush()
        self.window = asyncio.Event()
        self.streams = {}
        connections.add(self)

    def connection_lost(self, _):
        connections.discard(self)

    def eof_received(self):
        self.transport.close()

    def flush(self):
        self.transport.write(self.h2.data_to_send())

    def data_received(self, data):
        if self.ended:
            return
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.streams[event.stream_id] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                asyncio.ensure_future(self.answer(event.stream_id, self.streams[event.stream_id]))
            self.window.set()
        self.flush()

    async def answer(self, stream, headers):
        method, (_, kind, what) = headers[":method"], headers[":path"].split("/")
        status = what if kind == "status" else "200"
        fields, parts, pause = [(":status", status)], [], 0
        if kind == "count":
            executed.add(what)
            parts = [what.encode()]
        elif kind != "status":
            parts = [contract.body(int(what))] if kind == "body" else contract.pieces(int(what))
        if kind in ("body", "slow"):
            fields.append(("content-length", what))
        if kind == "slow":
            pause = contract.PAUSE
            asyncio.get_running_loop().call_later(1, say_goodbye)
        self.h2.send_headers(stream, fields, end_stream=method == "HEAD")
        self.tell()
        if method != "HEAD":
            for part in parts:
                await self.send(stream, part)
                await asyncio.sleep(pause)
            self.h2.end_stream(stream)
        self.flush()
        del self.streams[stream]
        self.idle_since = time.monotonic()

    async def send(self, stream, data):
        while data:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room <= 0:
                self.window.clear()
                await self.window.wait()
                continue
            self.h2.send_data(stream, data[:room])
            data = data[room:]
            self.flush()

    def tell(self):
        """What is written here is written whole, so this is between two frames."""
        self.flush()
        if goodbye and not self.told:
            self.told = True
            self.transport.write(GOAWAY)

    def end_if_idle(self):
        if not self.streams and not self.ended and time.monotonic() - self.idle_since > IDLE:
            self.ended = True
            self.transport.write_eof()


def say_goodbye():
    global goodbye
    goodbye = True
    for connection in connections:
        connection.tell()
    asyncio.ensure_future(end_idle())


async def end_idle():
    while True:
        for connection in list(connections):
            connection.end_if_idle()
        await asyncio.sleep(0.05)


async def main():
    server = await asyncio.get_running_loop().create_server(Connection, "0.0.0.0", args.port)
    await server.serve_forever()


asyncio.run(main())
