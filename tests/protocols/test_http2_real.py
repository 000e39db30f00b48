# SPDX-License-Identifier: Apache-2.0
"""Real programs over a relay: gRPC's C core, hypercorn, httpx, curl. What they sent is what comes out.

And from each event on: what a run that joined there gives is what the whole run gives, or unknown.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc as untyped
import httpx
import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config

from instrumenter.bpf.abi import Direction, Outcome
from instrumenter.protocols.http2 import Connection
from instrumenter.protocols.http2_headers import UNKNOWN
from instrumenter.protocols.http2_streams import Exchange
from protocols.recorded import Relay
from protocols.test_http2_talks import Told, tell, walk
from protocols.wire import Recording

EXACT = ("outcome", "start_ns", "end_ns", "request_bytes", "response_bytes", "response_messages", "reset_code")
MOST_JOINS = 150
grpc: Any = untyped


def exchanges(recordings: list[Recording]) -> list[Exchange]:
    """Of all connections, each read whole and from many of its events on."""
    found = []
    for recording in recordings:
        told = walk(recording)
        connection = Connection(Direction.SERVER)
        whole = {x.stream: x for x in tell(connection, told)}
        assert (connection.counts.undecodable, connection.counts.nameless, connection.counts.unanswered) == (0, 0, 0)
        for start in range(1, len(told), max(1, len(told) // MOST_JOINS)):
            check_joined(told[start:], whole)
        found += list(whole.values())
    return found


def texts(x: Exchange) -> list[object]:
    return [*x.request._replace(path_full=0), x.status, x.response_type, x.grpc_status]


def check_joined(told: Told, whole: dict[int, Exchange]) -> None:
    connection = Connection(Direction.SERVER, joined=True)
    for x in tell(connection, told):
        known = whole[x.stream]
        assert all(getattr(x, name) == getattr(known, name) for name in EXACT)
        for text, right in zip(texts(x), texts(known), strict=True):
            assert text in (right, UNKNOWN)
    assert connection.counts.undecodable == 0


@contextmanager
def grpc_server() -> Iterator[int]:
    def unary(request: bytes, context: Any) -> bytes:
        return request * 2

    def many(request: bytes, context: Any) -> Iterator[bytes]:
        yield from (b"x" * n for n in range(int(request)))

    def gather(requests: Iterator[bytes], context: Any) -> bytes:
        return b"".join(requests)

    def echo(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield from requests

    def fail(request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.DATA_LOSS, "lost")
        return b""

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary), "Many": grpc.unary_stream_rpc_method_handler(many),
        "Gather": grpc.stream_unary_rpc_method_handler(gather), "Echo": grpc.stream_stream_rpc_method_handler(echo),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
    }  # fmt: skip
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("p.S", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait(10)


def grpc_calls(port: int) -> list[tuple[Any, ...]]:
    """Makes calls, many at once, and says what passed: (path, grpc-status, request and response bytes, messages)."""
    made: list[tuple[Any, ...]] = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        waiting = []
        for n in range(40):
            metadata = (("traceparent", f"00-{n:032x}-{n:016x}-01"), ("x-same", "s"))
            call = channel.unary_unary("/p.S/Unary").future(b"u" * n, metadata=metadata)
            waiting.append(call)
            made.append(("/p.S/Unary", b"0", 5 + n, 5 + 2 * n, 1, 1))
        assert [len(call.result(20)) for call in waiting] == [2 * n for n in range(40)]
        assert len(list(channel.unary_stream("/p.S/Many")(b"9", timeout=20))) == 9
        made.append(("/p.S/Many", b"0", 6, 9 * 5 + 36, 1, 9))
        assert channel.stream_unary("/p.S/Gather")(iter([b"ab"] * 7), timeout=20) == b"ab" * 7
        made.append(("/p.S/Gather", b"0", 49, 19, 7, 1))
        assert len(list(channel.stream_stream("/p.S/Echo")(iter([b"e" * 30_000] * 5), timeout=20))) == 5
        made.append(("/p.S/Echo", b"0", 5 * 30_005, 5 * 30_005, 5, 5))
        for path, code in (("/p.S/Fail", grpc.StatusCode.DATA_LOSS), ("/p.S/None", grpc.StatusCode.UNIMPLEMENTED)):
            with pytest.raises(grpc.RpcError) as failure:
                channel.unary_unary(path)(b"", timeout=20)
            error: Any = failure.value
            assert error.code() == code
            made.append((path, b"%d" % code.value[0], 5, 0, 1, 0))
    return made


def test_grpc() -> None:
    with grpc_server() as port, Relay(port) as relay:
        made = grpc_calls(relay.port)
    found = exchanges(relay.recordings)
    assert sorted(made) == sorted(
        (x.request.path.decode() if isinstance(x.request.path, bytes) else "", x.grpc_status, x.request_bytes,
         x.response_bytes, x.request_messages, x.response_messages) for x in found
    )  # fmt: skip
    assert {(x.outcome, x.status, x.grpc) for x in found} == {(Outcome.COMPLETE, 200, True)}
    traced = {x.request.traceparent for x in found} - {None}
    assert traced == {b"00-%032x-%016x-01" % (n, n) for n in range(40)}
    assert all(x.start_ns <= x.first_ns <= x.end_ns for x in found)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """/<status>/<size> answers so; it reads the request's body first."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    _, status, size = scope["path"].split("/")
    head = {"type": "http.response.start", "status": int(status), "headers": [(b"x-size", size.encode())]}
    await send(head)
    await send({"type": "http.response.body", "body": b"b" * int(size)})


@contextmanager
def hypercorn_server() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "WARNING"
    loop = asyncio.new_event_loop()
    done = asyncio.Event()
    thread = threading.Thread(
        target=loop.run_until_complete, args=(serve(app, config, shutdown_trigger=done.wait),), daemon=True
    )
    thread.start()
    yield port
    loop.call_soon_threadsafe(done.set)
    thread.join(20)
    loop.close()


def test_httpx_and_hypercorn() -> None:
    """100 at once on one connection."""
    wanted = [(f"/{400 + n % 7}/{n * 37}", n * 3) for n in range(100)]

    async def ask(port: int) -> list[int]:
        async with httpx.AsyncClient(http1=False, http2=True, base_url=f"http://127.0.0.1:{port}") as client:
            asked = [client.post(path, content=b"c" * size, headers={"x-n": path}) for path, size in wanted]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    with hypercorn_server() as port, Relay(port) as relay:
        assert asyncio.run(ask(relay.port)) == [400 + n % 7 for n in range(100)]
    assert len(relay.recordings) == 1
    found = exchanges(relay.recordings)
    assert sorted((x.request.path, x.status, x.request_bytes, x.response_bytes) for x in found) == sorted(
        (path.encode(), int(path[1:4]), size, int(path[5:])) for path, size in wanted
    )
    assert {x.outcome for x in found} == {Outcome.COMPLETE}
    assert all(x.request.user_agent == f"python-httpx/{httpx.__version__}".encode() for x in found)


# curl 7.88 fails when it uses a connection of prior knowledge twice.
@pytest.mark.parametrize(("how", "requests"), [("--http2-prior-knowledge", 1), ("--http2", 3)])
def test_curl(how: str, requests: int) -> None:
    """Prior knowledge, and the upgrade from HTTP/1.1, whose request is stream 1."""
    curl = shutil.which("curl")
    if curl is None or "HTTP2" not in subprocess.run([curl, "-V"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("curl without HTTP/2")
    with hypercorn_server() as port, Relay(port) as relay:
        urls = [f"http://127.0.0.1:{relay.port}{path}" for path in ("/200/5", "/404/70000", "/204/0")[:requests]]
        command = [curl, "-sS", how, "-A", "c", *(word for url in urls for word in ("-o", "/dev/null", url))]
        subprocess.run(command, check=True, timeout=20)
    found = exchanges(relay.recordings)
    assert [(x.stream, x.request.path, x.status, x.response_bytes, x.request.user_agent) for x in found] == [
        (1, b"/200/5", 200, 5, b"c"), (3, b"/404/70000", 404, 70_000, b"c"), (5, b"/204/0", 204, 0, b"c"),
    ][:requests]  # fmt: skip


NODE = """
const http2 = require('http2');
const server = http2.createServer();
server.on('stream', (stream, headers) => {
  const [, status, size, how] = headers[':path'].split('/');
  stream.on('error', () => {});
  stream.resume();
  stream.on('end', () => {
    if (how == 'reset') return stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
    if (how == 'hint') stream.additionalHeaders({':status': 103, link: '</style>'});
    if (how == 'push') stream.pushStream({':path': '/pushed'}, (e, pushed) => { pushed.respond(); pushed.end('p'); });
    stream.respond({':status': status, 'x-size': size, 'set-cookie': 'c=' + status}, {waitForTrailers: true});
    stream.on('wantTrailers', () => stream.sendTrailers({'grpc-status': String(size % 17), 'x-sum': size}));
    stream.end('b'.repeat(size));
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('data', line => {
  const [port, paths] = [line.toString().split(' ')[0], line.toString().trim().split(' ').slice(1)];
  const client = http2.connect('http://127.0.0.1:' + port);
  client.on('stream', pushed => pushed.resume());
  let left = paths.length;
  for (const path of paths) {
    const asked = client.request({':path': path, ':method': 'PUT', 'user-agent': 'n', traceparent: 't' + path});
    asked.on('error', () => {});
    asked.on('close', () => { if (--left == 0) client.close(() => process.exit(0)); });
    asked.resume();
    asked.end('c'.repeat(path.length));
  }
});
"""


def test_node() -> None:
    """nghttp2 on both sides: trailers, early hints, pushed streams, resets; 90 at once."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node")
    hows = ("", "hint", "push", "reset")
    paths = [f"/{200 + n % 3}/{n * 50}/{hows[n % 4]}" for n in range(90)]
    with subprocess.Popen([node, "-e", NODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        with Relay(int(program.stdout.readline())) as relay:
            try:
                program.communicate(" ".join([str(relay.port), *paths]) + "\n", timeout=30)
            finally:
                program.kill()
    found = {str(x.request.path, "ascii"): x for x in exchanges(relay.recordings) if isinstance(x.request.path, bytes)}
    assert found.keys() == set(paths)
    for path, x in found.items():
        _, status, size, how = path.split("/")
        assert (x.request.traceparent, x.request_bytes) == (f"t{path}".encode(), len(path))
        if how == "reset":
            assert (x.outcome, x.status, x.reset_code) == (Outcome.RESET, None, 2)
        else:
            assert (x.outcome, x.status, x.response_bytes) == (Outcome.COMPLETE, int(status), int(size))
            assert x.grpc_status == b"%d" % (int(size) % 17)
