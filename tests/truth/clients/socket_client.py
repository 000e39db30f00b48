# SPDX-License-Identifier: Apache-2.0
"""A program that asks by bare socket calls, one by one. Usage: socket_client.py PLAN -

PLAN is as requests_client.py has it. Printed: JSON lines [number, status, start, took, least]. The clock is read right
before and right after the calls that send the request and that read its last byte, so that an exchange took at most
`took` and at least `least` ns, whatever else this program or this machine does: neither is an estimate.
"""

import json
import select
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit


def ended(method: str, data: bytes) -> bool:
    """Whether it is a whole response; one without a length ends with its connection."""
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank or method == "HEAD":
        return bool(blank)
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
    if b"content-length" in fields:
        return len(body) >= int(fields[b"content-length"])
    return b"chunked" in fields.get(b"transfer-encoding", b"") and body.endswith(b"\r\n0\r\n\r\n")


def exchange(connection: socket.socket, method: str, request: bytes) -> tuple[int, int, int, int]:
    """status, start, took, least."""
    clock, poll, data, part = time.monotonic_ns, select.poll(), b"", b"-"
    poll.register(connection, select.POLLIN)
    start, before_send = time.time_ns(), clock()
    size = connection.send(request)
    after_send = clock()
    assert size == len(request)
    while part and not ended(method, data):
        assert poll.poll(20_000)  # the last call begins when there is something to read
        before_read = clock()
        part = connection.recv(1 << 20)
        after_read = clock()
        data += part
    return int(data[9:12]), start, after_read - before_send, before_read - after_send


def main() -> None:
    for line in Path(sys.argv[1]).read_text().splitlines():
        number, method, url, size, headers = json.loads(line)
        parts = urlsplit(url)
        fields = {"Host": parts.netloc, "Connection": "close", **headers} | ({"Content-Length": size} if size else {})
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        request = f"{method} {parts.path}?{parts.query} HTTP/1.1\r\n{head}\r\n{'b' * size}".encode()
        with socket.create_connection((parts.hostname, parts.port), 20) as connection:
            print(json.dumps([number, *exchange(connection, method, request)]))


main()
