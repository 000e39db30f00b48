# SPDX-License-Identifier: Apache-2.0
"""A program that asks with requests. Usage: requests_client.py PLAN (session|oneshot); prints what became of it.

PLAN: JSON lines [number, method, url, body length, headers]. Printed: JSON lines [number, status, start, took]: the
first in ns since the epoch, the other in ns, by this program's own clock, until the whole body was read.
"""

import json
import sys
import time
from pathlib import Path

import requests


def main() -> None:
    session = requests.Session()
    for line in Path(sys.argv[1]).read_text().splitlines():
        number, method, url, size, headers = json.loads(line)
        if sys.argv[2] == "oneshot":
            headers["Connection"] = "close"
        prepared = session.prepare_request(requests.Request(method, url, headers, data=b"b" * size or None))
        start, began = time.time_ns(), time.perf_counter_ns()
        response = session.send(prepared, allow_redirects=False)
        took = time.perf_counter_ns() - began
        print(json.dumps([number, response.status_code, start, took]))


main()
