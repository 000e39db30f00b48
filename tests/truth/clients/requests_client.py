# SPDX-License-Identifier: Apache-2.0
"""A program that asks with requests. Usage: requests_client.py PLAN (session|oneshot); prints what became of it.

PLAN: JSON lines [number, method, url, body length, headers]. Printed: JSON lines [number, status, start, took, 0,
most]: start in ns since the epoch, the others in ns. took: by requests' own clock (`elapsed`), and for the body by this
program's; between the two nobody looks at a clock. most: by this program's, connecting included.
"""

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import requests


def main() -> None:
    session = requests.Session()
    session.verify = os.environ.get("SSL_CERT_FILE", True)  # which prepared requests do not look for
    for line in Path(sys.argv[1]).read_text().splitlines():
        number, method, url, size, headers = json.loads(line)
        if sys.argv[2] == "oneshot":
            headers["Connection"] = "close"
        prepared = session.prepare_request(requests.Request(method, url, headers, data=b"b" * size or None))
        start, asked = time.time_ns(), time.perf_counter_ns()
        response = session.send(prepared, allow_redirects=False, stream=True)
        began = time.perf_counter_ns()
        response.content  # noqa: B018 - reads it
        ended = time.perf_counter_ns()
        took = ended - began + response.elapsed // timedelta(microseconds=1) * 1000
        print(json.dumps([number, response.status_code, start, took, 0, ended - asked]))


main()
