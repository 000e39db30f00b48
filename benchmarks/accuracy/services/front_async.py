# SPDX-License-Identifier: Apache-2.0
"""`front_async.py PORT LEAF keep|close asyncio|uvloop`: aiohttp as server and client, several awaits deep."""

from __future__ import annotations

import asyncio
import sys

import aiohttp
from aiohttp import web

PORT, LEAF, KEEP, KIND = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "keep", sys.argv[4]
CLIENT = web.AppKey("client", aiohttp.ClientSession)


async def looked_up() -> None:
    """As a cache is asked before the call: other requests have their turn meanwhile."""
    await asyncio.sleep(0.001)


async def call(client: aiohttp.ClientSession, number: str, which: int, what: str = "") -> int:
    url = f"http://127.0.0.1:{LEAF}/leaf/{number}/{which}" + (f"?do={what}" if what else "")
    async with client.get(url, headers={"x-truth": f"{number}/{which}"}) as response:
        await response.read()
        return response.status


async def work(client: aiohttp.ClientSession, number: str, shape: str) -> bool:
    await looked_up()
    if shape == "seq":
        statuses = [await call(client, number, 1), await call(client, number, 2)]
    elif shape == "par":
        statuses = list(await asyncio.gather(call(client, number, 1), call(client, number, 2)))
    elif shape == "retry":
        status = await call(client, number, 1, "fail")
        if status == 503:
            await looked_up()
            status = await call(client, number, 1, "fail")
        statuses = [status]
    else:
        statuses = [await call(client, number, 1, "slow" if shape == "slow" else "")]
    return all(status == 200 for status in statuses)


async def front(request: web.Request) -> web.Response:
    number = request.match_info["number"]
    done = await work(request.app[CLIENT], number, request.query.get("mode", "one"))
    return web.Response(status=200 if done else 502, text=f"{number}\n")


async def application() -> web.Application:
    app = web.Application()
    app[CLIENT] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=not KEEP))
    app.router.add_get("/front/{number}", front)
    return app


def main() -> None:
    loop = asyncio.new_event_loop()
    if KIND == "uvloop":
        import uvloop  # type: ignore[import-not-found, unused-ignore]

        loop = uvloop.new_event_loop()
    web.run_app(application(), host="127.0.0.1", port=PORT, loop=loop, print=None, backlog=1024, access_log=None)


if __name__ == "__main__":
    main()
