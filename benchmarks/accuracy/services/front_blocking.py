# SPDX-License-Identifier: Apache-2.0
"""`front_blocking.py PORT LEAF keep|close threads|pool`: a thread for each connection of http.server, calls by urllib3.

threads: the calls are made by that thread, parallel ones by threads of their own. pool: all calls by one
ThreadPoolExecutor, which is smaller than the load, so that work waits in its queue.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import urllib3

PORT, LEAF, KEEP, KIND = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "keep", sys.argv[4]
CLIENT = urllib3.PoolManager(maxsize=600, retries=False)


POOL = ThreadPoolExecutor(16)


def call(number: str, which: int, what: str = "") -> int:
    url = f"http://127.0.0.1:{LEAF}/leaf/{number}/{which}" + (f"?do={what}" if what else "")
    headers = {"x-truth": f"{number}/{which}"} | ({} if KEEP else {"Connection": "close"})
    return CLIENT.request("GET", url, headers=headers).status


def one(number: str, which: int, what: str = "") -> int:
    return POOL.submit(call, number, which, what).result() if KIND == "pool" else call(number, which, what)


def both(number: str) -> list[int]:
    if KIND == "pool":
        return [future.result() for future in [POOL.submit(call, number, which) for which in (1, 2)]]
    statuses: list[int] = []
    threads = [Thread(target=lambda which: statuses.append(call(number, which)), args=(which,)) for which in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def work(number: str, shape: str) -> bool:
    if shape == "seq":
        statuses = [one(number, 1), one(number, 2)]
    elif shape == "par":
        statuses = both(number)
    elif shape == "retry":
        status = one(number, 1, "fail")
        statuses = [one(number, 1, "fail") if status == 503 else status]
    else:
        statuses = [one(number, 1, "slow" if shape == "slow" else "")]
    return all(status == 200 for status in statuses)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        number = parts.path.rpartition("/")[2]
        done = work(number, parse_qs(parts.query).get("mode", ["one"])[0])
        body = f"{number}\n".encode()
        self.send_response(200 if done else 502)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", PORT), Handler).serve_forever()
