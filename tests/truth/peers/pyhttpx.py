# SPDX-License-Identifier: Apache-2.0
"""An HTTP/2 client (httpx). Usage: pyhttpx.py URL COUNT, all of them at once on one connection"""

from __future__ import annotations

import asyncio
import sys

import httpx


async def ask(url: str, count: int) -> None:
    async with httpx.AsyncClient(http1=False, http2=True, trust_env=False, timeout=60) as client:
        await client.get(f"{url}/items/1")
        answers = await asyncio.gather(*(client.get(f"{url}/items/{i}") for i in range(2, count + 1)))
    assert all(answer.http_version == "HTTP/2" for answer in answers)


if __name__ == "__main__":
    asyncio.run(ask(sys.argv[1], int(sys.argv[2])))
