"""An echo by the package `websockets`."""

import asyncio

import websockets

import contract

args = contract.server_args()


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    # No pings of its own: a silent connection is silent.
    async with websockets.serve(echo, "0.0.0.0", args.port, ping_interval=None, compression=None):
        await asyncio.Future()


asyncio.run(main())
