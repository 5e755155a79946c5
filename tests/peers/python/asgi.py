"""An ASGI application, run by uvicorn: `python asgi.py --port P --executed FILE`."""

import asyncio

import uvicorn

import contract

args = contract.server_args()
executed = contract.Executed(args.executed)


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    _, kind, what = scope["path"].split("/")

    async def head(size, status=200):
        headers = [] if size is None else [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def part(data, more=False):
        await send({"type": "http.response.body", "body": data, "more_body": more})

    if kind == "body":
        await head(int(what))
        await part(b"" if scope["method"] == "HEAD" else contract.body(int(what)))
    elif kind == "chunked":
        await head(None)
        for piece in contract.pieces(int(what)):
            await part(piece, True)
        await part(b"")
    elif kind == "slow":
        await head(int(what))
        for piece in contract.pieces(int(what)):
            await part(piece, True)
            await asyncio.sleep(contract.PAUSE)
        await part(b"")
    elif kind == "count":
        while (await receive()).get("more_body"):
            pass
        executed.add(what)
        await head(len(what))
        await part(what.encode())
    else:
        await head(None, int(what))
        await part(b"")


# Connections stay until somebody ends them: the default closes them after 5 idle seconds.
uvicorn.run(app, host="0.0.0.0", port=args.port, timeout_keep_alive=300, log_level="warning")
