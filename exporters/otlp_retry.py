# SPDX-License-Identifier: Apache-2.0
"""Retrying: one prepared request in, its end out (delivered, refused or given up), with the waits in between.

OTLP specification 1.x, "Retryable response" and "Throttling". The rules it protects: a wait ends when the exporter is
closed, and a receiver that is away gives one line when it goes and one when it is back, not one per batch.
"""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import dataclass
from typing import Final

from exporters.envelope import Body
from exporters.otlp_options import GRPC_PORT, HTTP_PORT, OtlpOptions
from exporters.otlp_transport import Reply, Transport
from exporters.queue import Shutdown
from instrumenter.telemetry import Counters

log = logging.getLogger(__name__)
_MAX_THROTTLE_S: Final = 300.0  # a receiver may ask for more, but not be forgotten for longer
_MAX_MESSAGES: Final = 32  # distinct messages of one receiver that are logged


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff: first_s, times `factor` up to max_s, each +-`jitter` of itself."""

    first_s: float = 1.0
    factor: float = 2.0
    max_s: float = 5.0
    jitter: float = 0.2

    def wait_s(self, attempt: int) -> float:
        """Before attempt number `attempt` (the first retry is 1)."""
        plain = min(self.max_s, self.first_s * self.factor ** min(attempt - 1, 30))
        return plain * random.uniform(1 - self.jitter, 1 + self.jitter)


class Presence:
    """Says once that the receiver is away and once that it is back. A flapping one is not repeated within quiet_s."""

    def __init__(self, options: OtlpOptions, quiet_s: float = 30.0) -> None:
        self._options = options
        self._quiet_s = quiet_s
        self.since: float | None = None  # away since (monotonic), or None
        self._announced = False
        self._last_back = -math.inf
        self._said: set[str] = set()

    def failed(self, reason: str) -> None:
        now = time.monotonic()
        self.since = now if self.since is None else self.since
        news = now - self._last_back >= self._quiet_s or now - self.since >= self._quiet_s / 2
        if news and not self._announced:
            self._announced = True
            o = self._options
            text = reason + _hint(o)
            log.warning("OTLP %s: cannot deliver to %s (%s), trying again: %s", o.signal, o.display, o.protocol, text)

    def answered(self) -> None:
        if self._announced and self.since is not None:
            self._last_back = time.monotonic()
            o = self._options
            away_s = self._last_back - self.since
            log.warning("OTLP %s: delivering to %s again, after %.1f s", o.signal, o.display, away_s)
        self._announced = False
        self.since = None

    def once(self, text: str, message: str) -> None:
        """Log `text: message` unless this message was logged before."""
        if message not in self._said and len(self._said) < _MAX_MESSAGES:
            self._said.add(message)
            log.warning("OTLP %s: %s %s: %s", self._options.signal, self._options.display, text, message)


def _hint(options: OtlpOptions) -> str:
    if options.protocol == "grpc" and options.endpoint.endswith(f":{HTTP_PORT}"):
        return f" (port {HTTP_PORT} is OTLP/HTTP's: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf?)"
    if options.protocol != "grpc" and f":{GRPC_PORT}/" in options.endpoint:
        return f" (port {GRPC_PORT} is OTLP/gRPC's: OTEL_EXPORTER_OTLP_PROTOCOL=grpc?)"
    if options.protocol == "grpc" and not options.insecure and not options.ca:
        return " (with TLS; for plain text begin the endpoint with http://)"
    return ""


class Sender:
    """Sends requests one after the other and decides when one is given up. For one thread."""

    def __init__(
        self,
        options: OtlpOptions,
        transport: Transport,
        counters: Counters,
        shutdown: Shutdown,
        policy: RetryPolicy,
        max_elapsed_s: float,
        name: str = "otlp",
    ) -> None:
        self._options = options
        self._transport = transport
        self._counters = counters
        self._shutdown = shutdown
        self._policy = policy
        self._max_elapsed_s = max_elapsed_s
        self._name = name
        self._not_before = 0.0  # the receiver asked for quiet until then (monotonic)
        self.presence: Final = Presence(options)

    def send(self, body: Body) -> Reply:
        """Try until delivered or refused. A last verdict of "retry" means: given up."""
        prepared = self._transport.prepare(body)
        if not self._shutdown.pause(self._not_before - time.monotonic(), self._shutdown.draining.is_set()):
            return Reply("retry", "closed")
        deadline = time.monotonic() + self._max_elapsed_s
        attempt = 0
        while True:
            hurried = self._shutdown.draining.is_set()
            reply = self._attempt(prepared, attempt, deadline)
            attempt += 1
            if reply.verdict != "retry":
                self._answered(reply)
                return reply
            if self._shutdown.over.is_set():  # the failure is our own hanging up
                return reply
            self.presence.failed(reply.message)
            wait_s = self._wait_s(reply, attempt)
            # A receiver that was away before the end began gets one more try, not all the time that is left.
            last = hurried and self.presence.since is not None and self.presence.since < self._shutdown.since
            if last or time.monotonic() + wait_s > deadline or not self._shutdown.pause(wait_s, hurried):
                return reply

    def _answered(self, reply: Reply) -> None:
        self.presence.answered()
        if reply.verdict == "refused":
            self.presence.once("refused a request, which is dropped", reply.message)
        elif reply.rejected:
            self.presence.once(f"rejected {reply.rejected} items of a request", reply.message)
        elif reply.message:
            self.presence.once("says", reply.message)

    def _attempt(self, prepared: Body, attempt: int, deadline: float) -> Reply:
        if self._shutdown.over.is_set():
            return Reply("retry", "closed")
        signal = self._options.signal
        self._counters.add("export.requests", exporter=self._name, signal=signal)
        self._counters.add("export.bytes", len(prepared), exporter=self._name, signal=signal)
        if attempt:
            self._counters.add("export.retries", exporter=self._name, signal=signal)
        left = max(0.001, deadline - time.monotonic())
        return self._transport.send(prepared, min(self._options.timeout_s, left))

    def _wait_s(self, reply: Reply, attempt: int) -> float:
        if reply.wait_s is None:
            return self._policy.wait_s(attempt)
        wait_s = min(reply.wait_s, _MAX_THROTTLE_S)
        self._not_before = time.monotonic() + wait_s
        return wait_s
