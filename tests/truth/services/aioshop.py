# SPDX-License-Identifier: Apache-2.0
"""An aiohttp application over TLS. Usage: aioshop.py PORT CERTIFICATE KEY"""

import asyncio
import logging
import ssl
import sys

from aiohttp import web

routes = web.RouteTableDef()


@routes.get("/hello")
async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello\n")


@routes.get("/users/{number}")
async def user(request: web.Request) -> web.Response:
    return web.json_response({"user": request.match_info["number"]})


@routes.post("/echo")
async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


@routes.get("/boom")
async def boom(_: web.Request) -> web.Response:
    raise web.HTTPInternalServerError


@routes.get("/slow")
async def slow(_: web.Request) -> web.Response:
    await asyncio.sleep(0.03)
    return web.Response(text="at last\n")


@routes.get("/stream")
async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(16):
        await response.write(b"x" * 4096)
    return response


logging.basicConfig(level=logging.INFO)
app = web.Application()
app.add_routes(routes)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(*sys.argv[2:])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), ssl_context=context, access_log_format='"%r" %s', print=None)
