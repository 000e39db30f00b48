# SPDX-License-Identifier: Apache-2.0
"""A WebSocket server of `websockets`, which sends back what it gets. Usage: wsshop.py PORT [CERTIFICATE KEY]"""

import asyncio
import ssl
import sys

from websockets.asyncio.server import ServerConnection, serve


async def answer(connection: ServerConnection) -> None:
    assert connection.request is not None
    print(f'"GET {connection.request.path} HTTP/1.1"', flush=True)
    async for message in connection:
        await connection.send(message)


async def main() -> None:
    context = None
    if len(sys.argv) > 2:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*sys.argv[2:])
    async with serve(answer, "127.0.0.1", int(sys.argv[1]), ssl=context) as server:
        await server.serve_forever()


asyncio.run(main())
