# SPDX-License-Identifier: Apache-2.0
"""A program that calls with grpcio, eight at once. Usage: grpc_client.py PLAN (plain|tls); prints what became of it.

PLAN: JSON lines [number, target, method, messages]. Printed: JSON lines [number, code].
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc as untyped

grpc: Any = untyped

channels: dict[str, Any] = {}


def channel(target: str) -> Any:
    if target not in channels:
        trusted = grpc.ssl_channel_credentials(Path(os.environ["SSL_CERT_FILE"]).read_bytes())
        channels[target] = (
            grpc.secure_channel(target, trusted) if sys.argv[2] == "tls" else grpc.insecure_channel(target)
        )
    return channels[target]


def call(line: str) -> str:
    number, target, method, messages = json.loads(line)
    path, message = f"/shop.Shop/{method}", b"some message"
    told = {"metadata": (("x-number", str(number)),), "timeout": 60}
    code = 0
    try:
        if method == "Many":
            assert len(list(channel(target).unary_stream(path)(message, **told))) == 5
        elif method == "Gather":
            channel(target).stream_unary(path)(iter([message] * messages), **told)
        elif method == "Echo":
            answers = channel(target).stream_stream(path)(iter([message] * messages), **told)
            assert len(list(answers)) == messages
        else:
            assert channel(target).unary_unary(path)(message, **told) == message
    except grpc.RpcError as error:
        code = error.code().value[0]
    return json.dumps([number, code])


lines = Path(sys.argv[1]).read_text().splitlines()
for line in lines:
    channel(json.loads(line)[1])
with ThreadPoolExecutor(8) as pool:
    print("\n".join(pool.map(call, lines)))
for one in channels.values():
    one.close()
sys.stdout.flush()
sys.stdin.read()  # until told to end
