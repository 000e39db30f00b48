# SPDX-License-Identifier: Apache-2.0
"""A program that asks with httpx. Usage: httpx_client.py PLAN (h1|single|h2)

h1: many at once; single: one after the other. PLAN and what is printed are as requests_client.py has them; with h2
plain URLs are asked by prior knowledge.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import httpx


async def ask(client: httpx.AsyncClient, gate: asyncio.Semaphore, line: str) -> None:
    number, method, url, size, headers = json.loads(line)
    async with gate:
        start, began = time.time_ns(), time.perf_counter_ns()
        response = await client.request(method, url, headers=headers, content=b"b" * size or None)
        took = time.perf_counter_ns() - began
    assert response.http_version == ("HTTP/2" if sys.argv[2] == "h2" else response.http_version)
    print(json.dumps([number, response.status_code, start, took]))


async def main() -> None:
    second = sys.argv[2] == "h2"
    gate = asyncio.Semaphore(
        16 if sys.argv[2] == "h1" else 1
    )  # httpcore takes stream ids in one order and sends them in another
    async with httpx.AsyncClient(http1=not second, http2=second, timeout=60, trust_env=True) as client:
        await asyncio.gather(*(ask(client, gate, line) for line in Path(sys.argv[1]).read_text().splitlines()))


asyncio.run(main())
