# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call"
"""A gRPC service of bytes, and a client of it (grpcio). Usage: pygrpc.py server PORT | client PORT ROUNDS

Every peer of this folder serves and asks the same: what a round is, tests/truth/test_grpc.py says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import suppress

import grpc

SERVICE = "shop.v1.Basket"
LARGE = b"x" * 100_000


def one(request: bytes, context: grpc.ServicerContext) -> bytes:
    if request == b"bad":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    return request


def down(request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
    return (request for _ in range(5))


def up(requests: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
    return b"%d" % sum(1 for _ in requests)


def both(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    yield from requests


def serve(port: str) -> None:
    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(one),
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def ask(port: str, rounds: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        path = f"/{SERVICE}/"
        call = channel.unary_unary(path + "One")
        for _ in range(rounds):
            assert call(b"a") == b"a"
            assert list(channel.unary_stream(path + "Down")(b"b")) == [b"b"] * 5
            assert channel.stream_unary(path + "Up")(iter([b"1", LARGE, b"3"])) == b"3"
            assert list(channel.stream_stream(path + "Both")(iter([b"c"] * 4))) == [b"c"] * 4
            for failing, request in ((call, b"bad"), (channel.unary_unary(path + "Nothing"), b"")):
                with suppress(grpc.RpcError):
                    raise AssertionError(failing(request))
        for future in [call.future(b"many") for _ in range(100)]:
            assert future.result() == b"many"


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(sys.argv[2])
    else:
        ask(sys.argv[2], int(sys.argv[3]))
