# SPDX-License-Identifier: Apache-2.0
"""A server of grpcio, whose messages are bytes. Usage: grpcshop.py PORT [CERTIFICATE KEY]"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc as untyped

grpc: Any = untyped


def said(name: str, context: Any) -> None:
    print(f'"POST /shop.Shop/{name}?n={dict(context.invocation_metadata())["x-number"]} HTTP/2"', flush=True)


def unary(name: str, code: Any = None) -> Any:
    def answer(request: bytes, context: Any) -> bytes:
        said(name, context)
        if code is not None:
            context.abort(code, "as asked")
        return request

    return grpc.unary_unary_rpc_method_handler(answer)


def many(request: bytes, context: Any) -> Iterator[bytes]:
    said("Many", context)
    yield from [request] * 5


def gather(requests: Iterator[bytes], context: Any) -> bytes:
    said("Gather", context)
    return b"".join(requests)


def echo(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    said("Echo", context)
    yield from requests


def main() -> None:
    methods = {
        "Unary": unary("Unary"),
        "Missing": unary("Missing", grpc.StatusCode.NOT_FOUND),
        "Boom": unary("Boom", grpc.StatusCode.INTERNAL),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Gather": grpc.stream_unary_rpc_method_handler(gather),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
    }
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Shop", methods),))
    address, files = f"127.0.0.1:{sys.argv[1]}", [Path(name).read_bytes() for name in sys.argv[2:]]
    if files:
        server.add_secure_port(address, grpc.ssl_server_credentials([(files[1], files[0])]))
    else:
        server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


main()
