# SPDX-License-Identifier: Apache-2.0
"""A program that asks with aiohttp, many at once. Usage: aiohttp_client.py PLAN CONCURRENCY.

PLAN and what is printed are as requests_client.py has them.

Its own time of a request is from sending the head (`on_request_headers_sent` fires just before the write) to the end
of the body, so that neither waiting for a place in the pool nor connecting is part of it.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp


async def sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
    times = context.trace_request_ctx
    times.start, times.began = time.time_ns(), time.perf_counter_ns()


async def ask(session: aiohttp.ClientSession, gate: asyncio.Semaphore, line: str) -> None:
    number, method, url, size, headers = json.loads(line)
    times = SimpleNamespace()
    async with (
        gate,
        session.request(
            method, url, data=b"b" * size or None, headers=headers, trace_request_ctx=times, allow_redirects=False
        ) as response,
    ):
        await response.read()
        took = time.perf_counter_ns() - times.began
    print(json.dumps([number, response.status, times.start, took]))


async def main() -> None:
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(sent)
    gate = asyncio.Semaphore(int(sys.argv[2]))
    async with aiohttp.ClientSession(trace_configs=[trace]) as session:
        await asyncio.gather(*(ask(session, gate, line) for line in Path(sys.argv[1]).read_text().splitlines()))


asyncio.run(main())
