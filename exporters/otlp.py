# SPDX-License-Identifier: Apache-2.0
"""Spans to an OTLP receiver: `Spans` in, encoded requests out, by one thread with one connection.

The rules it protects: a request holds whole pieces of a batch, so that every span is counted under its own service; and
traces share nothing with metrics (otlp_metrics.py), so neither waits for the other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from exporters.envelope import Body
from exporters.otlp_metrics import OtlpMetricExporter
from exporters.otlp_options import BatchOptions, OtlpOptions, batch_options, otlp_options
from exporters.otlp_retry import RetryPolicy, Sender
from exporters.otlp_transport import SCHEMA_URL, Reply, Transport, agent_version, open_transport
from exporters.queue import SpanWorker, Tally, merge_tallies, split_tally
from exporters.uniform import joined
from instrumenter.model import Spans
from instrumenter.telemetry import Counters, tally

__all__ = [
    "BatchOptions",
    "OtlpMetricExporter",
    "OtlpOptions",
    "OtlpSpanExporter",
    "RetryPolicy",
    "batch_options",
    "otlp_options",
]

log = logging.getLogger(__name__)
MAX_REQUEST_BYTES: Final = 3_500_000  # receivers take 4 MiB by default


class Encoder(Protocol):
    """exporters.encode.SpanEncoder: each request below its max_bytes, with the number of spans in it."""

    def encode(self, spans: Spans) -> Sequence[tuple[Body, int]]: ...


class Piece(NamedTuple):
    """A serialized ExportTraceServiceRequest and the spans in it."""

    body: Body
    spans: Tally
    n: int


class OtlpSpanExporter:
    """model.SpanExporter over OTLP. Connects, and imports what the connection needs, with the first batch.

    encoder: None means exporters.encode.SpanEncoder. name: the counters' `exporter` label.
    """

    def __init__(
        self,
        options: OtlpOptions,
        counters: Counters,
        encoder: Encoder | None = None,
        batch: BatchOptions | None = None,
        policy: RetryPolicy | None = None,
        name: str = "otlp",
    ) -> None:
        self._options = options
        self._counters = counters
        self._encoder = encoder
        self._batch = batch or BatchOptions()
        self._policy = policy or RetryPolicy()
        self._name = name
        self._transport: Transport | None = None
        self._sender: Sender | None = None
        self._broken = False
        self._span_bytes = 300.0  # of one encoded span; each batch corrects it
        counters.add("spans.exported", 0, exporter=name)  # so that the account knows of it before it has sent any
        self._worker = SpanWorker(name, counters, self._batch, self._handle, self._disconnect)

    def export_spans(self, spans: Spans) -> None:
        """Queue the batch; what does not fit is counted as spans.dropped.queue_full. Never waits."""
        if len(spans):
            self._worker.offer(spans)

    def close(self, timeout_s: float) -> None:
        """Send what is queued, for about timeout_s at most; the rest is counted as spans.dropped.shutdown."""
        left = self._worker.close(timeout_s, interrupt=self._disconnect)
        if left:
            log.warning("OTLP traces: %d spans were still unsent at shutdown and are dropped", left)

    def _handle(self, batch: list[Spans]) -> None:
        try:
            sender = self._sender or self._connect()
        except Exception:  # a library that is missing or broken: say it once, count always
            if not self._broken:
                log.exception("OTLP traces: cannot be exported")
            self._broken = True
            self._worker.ledger.settle("spans.dropped.export_failed", merge_tallies(map(tally, batch)))
            return
        for request in self._requests(batch):
            reply = sender.send(request.body)
            if reply.verdict == "retry" and self._worker.shutdown.draining.is_set():
                self._worker.shutdown.over.set()  # nobody there; `close` counts what is left
                return
            self._settle(request, reply)

    def _connect(self) -> Sender:
        self._transport = open_transport(self._options)
        if self._encoder is None:
            from exporters.encode import SpanEncoder

            self._encoder = SpanEncoder(
                MAX_REQUEST_BYTES, self._batch.max_batch_spans, scope_version=agent_version(), schema_url=SCHEMA_URL
            )
        limit = self._batch.export_timeout_s
        shutdown = self._worker.shutdown
        self._sender = Sender(
            self._options, self._transport, self._counters, shutdown, self._policy, limit, self._name
        )  # fmt: skip
        return self._sender

    def _disconnect(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _settle(self, request: Piece, reply: Reply) -> None:
        if reply.verdict != "delivered":
            self._worker.ledger.settle("spans.dropped.export_failed", request.spans)
            return
        rejected, taken = split_tally(request.spans, min(reply.rejected, request.n))
        self._worker.ledger.settle("spans.dropped.rejected", rejected)
        self._worker.ledger.settle("spans.exported", taken)

    def _requests(self, batch: list[Spans]) -> Iterator[Piece]:
        """Pieces joined up to MAX_REQUEST_BYTES: serialized messages one after the other are one (Protocol Buffers)."""
        held: list[Piece] = []
        size = 0
        for spans in joined(batch):
            for piece in self._pieces(spans):
                if held and size + len(piece.body) > MAX_REQUEST_BYTES:
                    yield _join(held)
                    held, size = [], 0
                held.append(piece)
                size += len(piece.body)
        if held:
            yield _join(held)

    def _pieces(self, spans: Spans) -> Iterator[Piece]:
        """Encode so that each piece fits a request: as many rows at a time as the last ones say will fit."""
        rows = max(1, int(0.8 * MAX_REQUEST_BYTES / self._span_bytes))
        for begin in range(0, len(spans), rows):
            yield from self._piece(spans if rows >= len(spans) else spans.take(slice(begin, begin + rows)))

    def _piece(self, spans: Spans) -> Iterator[Piece]:
        """What takes several requests after all is halved until it does not, so that each one's services are known."""
        assert self._encoder is not None
        try:
            encoded = self._encoder.encode(spans)
        except Exception:
            log.exception("%d spans could not be encoded and are dropped", len(spans))
            self._worker.ledger.settle("spans.dropped.export_failed", tally(spans))
            return
        self._span_bytes = max(1.0, sum(len(body) for body, _ in encoded) / len(spans))
        if len(encoded) == 1 and encoded[0][1] == len(spans):
            yield Piece(encoded[0][0], tally(spans), len(spans))
        elif len(spans) > 1:
            middle = len(spans) // 2
            yield from self._piece(spans.take(slice(middle)))
            yield from self._piece(spans.take(slice(middle, None)))
        else:
            self._worker.ledger.settle("spans.dropped.too_large", tally(spans))


def _join(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    bodies = b"".join(piece.body for piece in pieces)
    return Piece(bodies, merge_tallies(piece.spans for piece in pieces), sum(piece.n for piece in pieces))
