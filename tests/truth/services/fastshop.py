# SPDX-License-Identifier: Apache-2.0
"""A FastAPI application; uvicorn serves it."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse

app = FastAPI()


@app.get("/hello")
async def hello() -> str:
    return "hello\n"


@app.head("/hello")
async def hello_head() -> Response:
    return Response(headers={"content-length": "6"})


@app.get("/users/{number}")
async def user(number: int) -> dict[str, int]:
    return {"user": number}


@app.post("/echo")
async def echo(request: Request) -> Response:
    return Response(await request.body())


@app.get("/boom")
async def boom() -> None:
    raise HTTPException(500, "boom")


@app.get("/slow")
async def slow() -> str:
    await asyncio.sleep(0.03)
    return "at last\n"


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(16):
            yield b"x" * 4096

    return StreamingResponse(pieces())
