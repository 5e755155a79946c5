"""The package `websockets`: busy connections that fall silent, and then come to their own end."""

import asyncio

import websockets

import contract

SILENCE = 3
LAST = 20

args = contract.client_args()
tally = contract.Tally(args.warm, False)


async def exchange(socket, size):
    """One echo; alternately text and bytes."""
    message = contract.body(size) if size % 2 else contract.body(size).hex()
    await socket.send(message)
    got = await asyncio.wait_for(socket.recv(), 15)
    if got != message:
        raise contract.Wrong(f"{len(got)} instead of {len(message)}, or others")
    tally.right()


async def open_socket():
    return await websockets.connect(f"ws://{args.host}:{args.port}/", ping_interval=None,
                                    compression=None, max_size=None)


async def first_connection():
    socket = await open_socket()
    for count in range(1_000_000):
        await exchange(socket, contract.SIZES[count % 6])
        if tally.enough.is_set():
            break
    await asyncio.sleep(SILENCE)
    for count in range(LAST):
        await exchange(socket, count)
        await asyncio.sleep(0.02)
    await socket.close()
    if socket.close_code != 1000:
        raise ConnectionError(f"closed with {socket.close_code}")


async def later_connection():
    tally.reconnected()
    socket = await open_socket()
    count = 0
    while not tally.stop.is_set():
        await exchange(socket, count % 100)
        await asyncio.sleep(0.02)
        count += 1
    await socket.close()


async def worker():
    for part in (first_connection, later_connection):
        try:
            await part()
        except Exception as error:
            tally.failed(part.__name__, error)


async def main():
    await asyncio.gather(*(worker() for _ in range(args.connections)))
    tally.summary()


asyncio.run(main())
