# SPDX-License-Identifier: Apache-2.0
"""What the kernel side is told where: the functions of TLS libraries and of Go programs that it knows.

In: a `TlsLibrary`. Out: `Point`s. The rule: a function that is not in CALLS gets no probe.
"""

from __future__ import annotations

from typing import Final

from instrumenter.binaries.tls_libraries import TlsLibrary
from instrumenter.bpf.abi import TlsCall
from instrumenter.bpf.uprobes import Point

CALLS: Final = {
    "SSL_read": TlsCall.READ, "SSL_read_ex": TlsCall.READ_EX,
    "SSL_write": TlsCall.WRITE, "SSL_write_ex": TlsCall.WRITE_EX, "SSL_write_ex2": TlsCall.WRITE_EX2,
    "SSL_sendfile": TlsCall.SENDFILE,
    "SSL_peek": TlsCall.OTHER, "SSL_peek_ex": TlsCall.OTHER, "SSL_do_handshake": TlsCall.OTHER,
    "SSL_free": TlsCall.FREE,
    "gnutls_record_recv": TlsCall.READ, "gnutls_record_recv_seq": TlsCall.READ,
    "gnutls_record_send": TlsCall.WRITE, "gnutls_record_send2": TlsCall.WRITE,
    "gnutls_handshake": TlsCall.OTHER, "gnutls_deinit": TlsCall.FREE,
    "PR_Read": TlsCall.READ | TlsCall.MAYBE, "PR_Recv": TlsCall.READ | TlsCall.MAYBE,
    "PR_Write": TlsCall.WRITE | TlsCall.MAYBE, "PR_Send": TlsCall.WRITE | TlsCall.MAYBE,
    "PR_Close": TlsCall.FREE | TlsCall.MAYBE,
    "crypto/tls.(*Conn).Read": TlsCall.GO_READ, "crypto/tls.(*Conn).Write": TlsCall.GO_WRITE,
    "net/http.(*conn).serve": TlsCall.GO_SERVE,
    "github.com/gorilla/mux.requestWithRoute": TlsCall.GO_ROUTER,
    "github.com/go-chi/chi/v5.(*Mux).ServeHTTP": TlsCall.GO_ROUTER,
    "github.com/gin-gonic/gin.(*Engine).ServeHTTP": TlsCall.GO_ROUTER,
    "github.com/labstack/echo/v4.(*Echo).ServeHTTP": TlsCall.GO_ROUTER,
    "net/http.(*persistConn).roundTrip": TlsCall.GO_ASK, "runtime.newproc.func1": TlsCall.GO_BORN,
    "ngx_event_connect_peer": TlsCall.PEER,
}  # fmt: skip

_ONCE: Final = frozenset((TlsCall.FREE, *(call for call in TlsCall if call.name.startswith("GO_"))))  # no return
_LATER: Final = frozenset((TlsCall.GO_BORN,))  # a hit for each goroutine: only where they are asked for


def points_of(library: TlsLibrary, later: bool = False) -> list[Point]:
    """Where probes go in a library; none if its functions are not known to the kernel side.

    later: those that a program gets when the kernel asks for them (abi.EventKind.BORN).
    """
    points = []
    for name, symbol in library.functions.items():
        call = CALLS.get(name.partition("+")[0])
        if call is None or (call in _LATER) != later:
            continue
        points.append(Point(symbol.offset, call | symbol.told << 32))
        if call & ~TlsCall.MAYBE not in _ONCE:
            points.append(Point(symbol.offset, call | TlsCall.RETURN, at_return=True))
    return points
