# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
# ruff: noqa: E402
"""`front_gevent.py PORT LEAF keep|close`: gevent's pywsgi; urllib3, made to switch greenlets instead of blocking."""

from gevent import monkey

monkey.patch_all()

import sys
from urllib.parse import parse_qs

import gevent
import urllib3
from gevent.pywsgi import WSGIServer

PORT, LEAF, KEEP = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "keep"
CLIENT = urllib3.PoolManager(maxsize=600, retries=False)


def call(number, which, what=""):
    url = f"http://127.0.0.1:{LEAF}/leaf/{number}/{which}" + (f"?do={what}" if what else "")
    headers = {"x-truth": f"{number}/{which}"} | ({} if KEEP else {"Connection": "close"})
    return CLIENT.request("GET", url, headers=headers).status


def work(number, shape):
    gevent.sleep(0.001)  # as a cache is asked before: other requests have their turn meanwhile
    if shape == "seq":
        return [call(number, 1), call(number, 2)]
    if shape == "par":
        return [job.get() for job in [gevent.spawn(call, number, which) for which in (1, 2)]]
    if shape == "retry":
        status = call(number, 1, "fail")
        return [call(number, 1, "fail") if status == 503 else status]
    return [call(number, 1, "slow" if shape == "slow" else "")]


def front(environ, start_response):
    number = environ["PATH_INFO"].rpartition("/")[2]
    statuses = work(number, parse_qs(environ["QUERY_STRING"]).get("mode", ["one"])[0])
    body = f"{number}\n".encode()
    status = "200 OK" if all(status == 200 for status in statuses) else "502 Bad Gateway"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


WSGIServer(("127.0.0.1", PORT), front, backlog=1024, log=None).serve_forever()
