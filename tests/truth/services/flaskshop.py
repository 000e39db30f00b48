# SPDX-License-Identifier: Apache-2.0
"""A Flask application; gunicorn serves it with two workers."""

import time
from collections.abc import Iterator

from flask import Flask, Response, abort, request

app = Flask(__name__)


@app.get("/hello")
def hello() -> str:
    return "hello\n"


@app.get("/users/<int:number>")
def user(number: int) -> dict[str, int]:
    return {"user": number}


@app.post("/echo")
def echo() -> Response:
    return Response(request.get_data(), mimetype="application/octet-stream")


@app.get("/boom")
def boom() -> str:
    abort(500)


@app.get("/slow")
def slow() -> str:
    time.sleep(0.03)
    return "at last\n"


@app.get("/stream")
def stream() -> Response:
    def pieces() -> Iterator[bytes]:
        for _ in range(16):
            yield b"x" * 4096

    return Response(pieces(), mimetype="text/plain")
