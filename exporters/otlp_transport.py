# SPDX-License-Identifier: Apache-2.0
"""One attempt to hand one encoded request to an OTLP receiver: bytes in, a `Reply` out, never an exception.

The rule it protects: what an answer means (OTLP specification 1.x, "OTLP/gRPC Response", "OTLP/HTTP Response") is
decided here and nowhere else. grpc or urllib3 is imported only by the transport that is used, when it is built.
"""

from __future__ import annotations

import functools
import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from exporters.envelope import Body
from exporters.otlp_options import OtlpOptions, Signal

_METHODS: Final = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
_RETRYABLE_GRPC: Final = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
)
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"  # of the conventions that names and metrics follow
MAX_REPLY: Final = 4 << 20  # bytes of an answer that are read


@dataclass(frozen=True, slots=True)
class Reply:
    """delivered: taken, but for `rejected` items. retry: may pass, not before wait_s if given. refused: never."""

    verdict: Literal["delivered", "retry", "refused"]
    message: str = ""
    rejected: int = 0
    wait_s: float | None = None


class Transport(Protocol):
    """A connection to one receiver, used by one thread; only `close` may come from another."""

    def prepare(self, body: Body) -> Body:
        """What is done once per request, not once per attempt: compression."""

    def send(self, prepared: Body, timeout_s: float) -> Reply: ...

    def close(self) -> None: ...


@functools.cache
def agent_version() -> str:
    """Of the installed distribution; empty when run from a tree that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("stingless")
    except PackageNotFoundError:
        return ""


def user_agent() -> str:
    """Name and version, as the specification asks of exporters."""
    return f"stingless/{agent_version() or '0'}"


def open_transport(options: OtlpOptions) -> Transport:
    """Import what the protocol needs and make its transport; connects at the first send."""
    transport: Transport
    if options.protocol == "grpc":
        transport = GrpcTransport(options)
    else:
        from exporters.otlp_http import HttpTransport

        transport = HttpTransport(options)
    gc.freeze()  # what was imported lives for good: not to be looked at again by every later collection
    return transport


def response_parser(signal: Signal) -> Callable[[bytes], Any]:
    """bytes -> Export{Trace,Metrics}ServiceResponse."""
    if signal == "traces":
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

        return ExportTraceServiceResponse.FromString
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    return ExportMetricsServiceResponse.FromString


def delivered(response: Any, signal: Signal) -> Reply:
    partial = response.partial_success
    rejected = partial.rejected_spans if signal == "traces" else partial.rejected_data_points
    return Reply("delivered", partial.error_message, rejected=max(0, rejected))


class GrpcTransport:
    """OTLP/gRPC. export.bytes counts its messages before gzip, which gRPC does inside."""

    def __init__(self, options: OtlpOptions) -> None:
        import grpc

        self._grpc: Any = grpc  # untyped
        self._options = options
        settings = (
            ("grpc.primary_user_agent", user_agent()),
            # gRPC's own waits between connects grow to two minutes; a collector that is back must be found sooner.
            ("grpc.initial_reconnect_backoff_ms", 500),
            ("grpc.min_reconnect_backoff_ms", 5_000),
            ("grpc.max_reconnect_backoff_ms", 5_000),
            ("grpc.max_receive_message_length", MAX_REPLY),
        )
        if options.insecure:
            self._channel = self._grpc.insecure_channel(options.endpoint, settings)
        else:
            self._channel = self._grpc.secure_channel(options.endpoint, self._credentials(), settings)
        self._call = self._channel.unary_unary(
            _METHODS[options.signal], response_deserializer=response_parser(options.signal)
        )

    def _credentials(self) -> Any:
        def read(path: str | None) -> bytes | None:
            return Path(path).read_bytes() if path else None

        o = self._options
        return self._grpc.ssl_channel_credentials(read(o.ca), read(o.key or o.certificate), read(o.certificate))

    def prepare(self, body: Body) -> Body:
        return bytes(body)

    def send(self, prepared: Body, timeout_s: float) -> Reply:
        compression = self._grpc.Compression
        try:
            response = self._call(
                prepared,
                timeout=None if math.isinf(timeout_s) else timeout_s,
                metadata=self._options.headers,
                compression=compression.Gzip if self._options.gzip else compression.NoCompression,
            )
        except self._grpc.RpcError as error:
            return _grpc_failure(error)
        except ValueError as error:  # the channel was closed by `close` from another thread
            return Reply("retry", str(error))
        return delivered(response, self._options.signal)

    def close(self) -> None:
        """Ends a call that runs in another thread, too."""
        self._channel.close()


def _grpc_failure(error: Any) -> Reply:
    code = error.code().name
    message = f"{code}: {error.details() or 'no details'}"
    if "parsing HTTP/2" in message:
        message += "; is it an HTTP port? Then --otlp-protocol http/protobuf"
    wait_s = _retry_info(error)
    if code in _RETRYABLE_GRPC or (code == "RESOURCE_EXHAUSTED" and wait_s is not None):
        return Reply("retry", message, wait_s=wait_s)
    return Reply("refused", message)


def _retry_info(error: Any) -> float | None:
    """Seconds of google.rpc.RetryInfo in the status details, if there is one."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if not details:
        return None
    from google.rpc.error_details_pb2 import RetryInfo

    info = RetryInfo()
    for detail in error_status(details).details:
        if detail.Unpack(info):
            return max(0.0, float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
    return None


def error_status(body: bytes) -> Any:
    """google.rpc.Status; an empty one where the bytes are something else."""
    from google.protobuf.message import DecodeError
    from google.rpc import status_pb2

    status: Any = status_pb2.Status()  # Any: protobuf's own methods have no types
    try:
        status.ParseFromString(body)
    except DecodeError:
        status.Clear()
    return status


def retry_after(text: str, now: float) -> float | None:
    """Seconds of a Retry-After header: delay-seconds or an HTTP-date (RFC 9110, 10.2.3). `now`: epoch seconds."""
    from email.utils import parsedate_to_datetime

    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError):
        return None


def cause(error: BaseException) -> str:
    """The innermost reason of a chain of library errors: "Connection refused" instead of three nested reprs."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    if type(error).__name__ == "BadStatusLine":  # of http.client; its subclass says that there was no answer
        return "its answer is not HTTP; is it a gRPC port? Then --otlp-protocol grpc"
    if getattr(error, "reason", "") == "WRONG_VERSION_NUMBER":
        return "its answer is not TLS; does it want http:// in place of https://?"
    text = str(getattr(error, "strerror", None) or error or type(error).__name__)
    # A peer that speaks something else has its bytes quoted here.
    return "".join(c if c.isprintable() else "?" for c in text[:300])
