# SPDX-License-Identifier: Apache-2.0
"""A program that talks over WebSockets with `websockets`. Usage: websockets_client.py PLAN -

PLAN and what is printed are as requests_client.py has them. Some messages look like requests.
"""

import json
import sys
import time
from pathlib import Path

from websockets.sync.client import connect

for line in Path(sys.argv[1]).read_text().splitlines():
    number, _, url, *_ = json.loads(line)
    start, began = time.time_ns(), time.perf_counter_ns()
    with connect(url.replace("http", "ws", 1)) as connection:
        for message in ("GET /frame HTTP/1.1\r\n\r\n", "x" * 3000) * 10:
            connection.send(message)
            assert connection.recv() == message
        assert connection.response is not None
        status = connection.response.status_code
    print(json.dumps([number, status, start, time.perf_counter_ns() - began]))
