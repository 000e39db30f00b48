# SPDX-License-Identifier: Apache-2.0
"""What the probes want of Go programs: functions and fields, by module, as Go's own tables name them.

Read by go_program.py and go_fields.py, measured by go_offsets.py. The rule: a name that no longer is right in a newer
version stays, and the new one is added beside it; what a program does not have costs nothing. Functions that only
call another are not here, as the compiler inlines them (Framer.WriteData).
"""

from __future__ import annotations

from typing import Final

STD: Final = "std"
NET: Final = "golang.org/x/net"
GRPC: Final = "google.golang.org/grpc"
GORILLA: Final = "github.com/gorilla/mux"
CHI: Final = "github.com/go-chi/chi/v5"
GIN: Final = "github.com/gin-gonic/gin"
ECHO: Final = "github.com/labstack/echo/v4"

Structs = dict[str, tuple[str, ...]]

# HTTP/2 is the same source in x/net, bundled into net/http under the prefix http2, and since 1.27 in its own package.
_HTTP2: Final[Structs] = {
    "Framer": ("r", "w", "lastHeaderStream"),
    "FrameHeader": ("Type", "Flags", "Length", "StreamID"),
    "MetaHeadersFrame": ("HeadersFrame", "Fields"),
    "HeadersFrame": ("FrameHeader",),
    "serverConn": ("conn", "framer", "hs", "tlsState", "remoteAddrStr"),
    "stream": ("sc", "id"),
    "responseWriter": ("rws",),
    "responseWriterState": ("stream", "req", "status", "conn"),
    "writeResHeaders": ("streamID", "httpResCode", "endStream"),
    "ClientConn": ("tconn", "nextStreamID", "fr"),
    "clientStream": ("cc", "ID", "isHead", "res"),
}


def _http2(prefix: str, of_fields: str = "") -> Structs:
    """An embedded struct is a field by its own name, which has the prefix too."""
    embedded = ("HeadersFrame", "FrameHeader")
    return {
        prefix + struct: tuple(of_fields + field if field in embedded else field for field in fields)
        for struct, fields in _HTTP2.items()
    }


FIELDS: Final[dict[str, Structs]] = {
    STD: {
        "runtime.g": ("goid", "parentGoid", "m"),
        "runtime.m": ("curg", "procid"),
        "internal/poll.FD": ("Sysfd",),
        "net.netFD": ("pfd", "family", "sotype", "laddr", "raddr"),
        "net.conn": ("fd",),
        "net.TCPConn": ("conn",),
        "crypto/tls.Conn": ("conn", "isClient", "vers", "serverName", "clientProtocol"),
        "net/url.URL": ("Scheme", "Host", "Path", "RawPath", "RawQuery"),
        "net/http.Request": (
            "Method",
            "URL",
            "Proto",
            "Header",
            "ContentLength",
            "Host",
            "TLS",
            "Pattern",
            "pat",
            "ctx",
        ),
        "net/http.response": ("conn", "req", "status", "written", "contentLength", "wroteHeader"),
        "net/http.conn": ("server", "rwc", "remoteAddr", "tlsState", "bufr", "curReq"),
        "net/http.Response": ("StatusCode", "ContentLength", "Request"),
        "net/http.persistConn": ("conn", "tlsState", "alt"),
        "net/http.pattern": ("str",),
        **_http2("net/http.http2", "http2"),
        **_http2("net/http/internal/http2."),
    },
    NET: _http2("golang.org/x/net/http2."),
    GRPC: {
        "google.golang.org/grpc/internal/transport.Stream": ("id", "method", "ctx", "st"),
        "google.golang.org/grpc/internal/transport.ServerStream": ("Stream", "st"),
        "google.golang.org/grpc/internal/transport.ClientStream": ("Stream", "ct"),
        "google.golang.org/grpc/internal/transport.http2Server": ("conn", "framer", "remoteAddr", "peer"),
        "google.golang.org/grpc/internal/transport.http2Client": ("conn", "framer", "nextID", "remoteAddr"),
        "google.golang.org/grpc/internal/transport.framer": ("fr", "writer"),
        "google.golang.org/grpc/internal/transport.bufWriter": ("conn",),
        "google.golang.org/grpc/internal/transport.CallHdr": ("Host", "Method"),
        "google.golang.org/grpc/internal/status.Status": ("s",),
        "google.golang.org/grpc.ClientConn": ("target",),
        "google.golang.org/grpc.clientStream": ("callHdr", "attempt"),
        "google.golang.org/grpc.csAttempt": ("s", "transport", "t"),
        "google.golang.org/grpc.serverStream": ("s", "t"),
    },
    GORILLA: {
        f"{GORILLA}.Route": ("routeConf",),
        f"{GORILLA}.routeConf": ("regexp",),
        f"{GORILLA}.routeRegexpGroup": ("path",),
        f"{GORILLA}.routeRegexp": ("template",),
    },
    CHI: {f"{CHI}.Context": ("RoutePatterns",)},
    GIN: {f"{GIN}.Context": ("fullPath",)},
    ECHO: {f"{ECHO}.context": ("path",)},
}


def _functions(prefix: str) -> tuple[str, ...]:
    """HTTP/2's, with the prefix of its types and, behind the package, of its functions."""
    package, _, bundled = prefix.rpartition(".")
    types = (
        *("serverConn).processHeaders", "serverConn).runHandler", "serverConn).writeHeaders"),
        *("responseWriterState).writeHeader", "responseWriterState).writeChunk"),
        *("Framer).WriteHeaders", "Framer).WriteDataPadded", "Framer).startWriteDataPadded"),
        *("Framer).ReadFrame", "Framer).readMetaFrame"),
        *("ClientConn).RoundTrip", "ClientConn).roundTrip", "ClientConn).writeHeaders"),
        *("clientStream).encodeAndWriteHeaders", "clientStream).cleanupWriteRequest", "Transport).RoundTripOpt"),
        *("clientConnReadLoop).processHeaders", "clientConnReadLoop).handleResponse"),
    )
    return tuple(f"{package}.(*{bundled}{name}" for name in types)


FUNCTIONS: Final[dict[str, tuple[str, ...]]] = {
    STD: (
        *("runtime.newproc1", "runtime.goexit1", "runtime.gdestroy"),
        *("crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Write", "crypto/tls.(*Conn).Close"),
        "crypto/tls.(*Conn).handshakeContext",
        *("net/http.serverHandler.ServeHTTP", "net/http.(*conn).serve", "net/http.(*conn).readRequest"),
        *("net/http.(*response).finishRequest", "net/http.(*response).WriteHeader"),
        *("net/http.(*ServeMux).ServeHTTP", "net/http.(*ServeMux).findHandler"),
        *("net/http.(*Transport).roundTrip", "net/http.(*persistConn).roundTrip", "net/http.(*Request).write"),
        *_functions("net/http.http2"),
        *_functions("net/http/internal/http2."),
    ),
    NET: _functions("golang.org/x/net/http2."),
    GRPC: (
        "google.golang.org/grpc.(*Server).handleStream",
        "google.golang.org/grpc.(*Server).processUnaryRPC",
        "google.golang.org/grpc.(*Server).processStreamingRPC",
        "google.golang.org/grpc.(*Server).processRPC",
        "google.golang.org/grpc.(*ClientConn).Invoke",
        "google.golang.org/grpc.(*ClientConn).NewStream",
        "google.golang.org/grpc.newClientStream",
        "google.golang.org/grpc.(*clientStream).RecvMsg",
        "google.golang.org/grpc.(*clientStream).SendMsg",
        "google.golang.org/grpc.(*clientStream).finish",
        "google.golang.org/grpc/internal/transport.(*http2Server).operateHeaders",
        "google.golang.org/grpc/internal/transport.(*http2Server).WriteStatus",
        "google.golang.org/grpc/internal/transport.(*http2Server).writeStatus",
        "google.golang.org/grpc/internal/transport.(*http2Server).writeHeaderLocked",
        "google.golang.org/grpc/internal/transport.(*http2Client).NewStream",
        "google.golang.org/grpc/internal/transport.(*http2Client).operateHeaders",
        "google.golang.org/grpc/internal/transport.(*http2Client).closeStream",
        "google.golang.org/grpc/internal/transport.(*loopyWriter).writeHeader",
    ),
}
# The function that has a probe, and one by which the router is known to be in use.
ROUTERS: Final = {
    GORILLA: (f"{GORILLA}.requestWithRoute", f"{GORILLA}.(*Router).ServeHTTP"),
    CHI: (f"{CHI}.(*Mux).ServeHTTP",),
    GIN: (f"{GIN}.(*Engine).ServeHTTP",),
    ECHO: (f"{ECHO}.(*Echo).ServeHTTP",),
}
