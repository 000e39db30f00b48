# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 bytes for tests: frames by hand, and whole conversations of the h2 library with what was sent beside them.

In: frame fields, or a seed. Out: bytes, `Recording`s. The one rule: the truth is what a sender was told to send, never
what was decoded.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import h2.connection
import h2.events
from h2.config import H2Configuration
from h2.settings import SettingCodes

from instrumenter.bpf.abi import Outcome
from instrumenter.protocols.http2_events import Event, Half
from instrumenter.protocols.http2_frames import Walker
from instrumenter.protocols.http2_start import PREFACE

REQUEST, RESPONSE = Half.REQUEST, Half.RESPONSE
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
Headers = list[tuple[bytes, bytes]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def client(*frames: bytes) -> bytes:
    return PREFACE + SETTINGS + b"".join(frames)


def message(size: int) -> bytes:
    """A gRPC message."""
    return b"\0" + size.to_bytes(4) + b"m" * size


def events(walker: Walker, pieces: list[bytes]) -> list[Event]:
    return [seen.event for piece in pieces for seen in walker.feed(piece)]


@dataclass
class Sent:
    """What one stream carried."""

    request: dict[bytes, bytes]
    status: int | None = None
    response: dict[bytes, bytes] = field(default_factory=dict)
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    request_bytes: int = 0
    response_bytes: int = 0
    outcome: Outcome = Outcome.COMPLETE


@dataclass
class Recording:
    """Bytes in the order in which they passed, and what each stream carried."""

    pieces: list[tuple[Half, bytes]] = field(default_factory=list)
    sent: dict[int, Sent] = field(default_factory=dict)

    def half(self, half: Half) -> list[bytes]:
        return [piece for its, piece in self.pieces if its == half]


class Talk:
    """A client and a server of the h2 library that do what chance says; all streams at once."""

    def __init__(self, seed: int, streams: int) -> None:
        self.chance = random.Random(seed)
        self.recording = Recording()
        self._client = h2.connection.H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._server = h2.connection.H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._asked: set[int] = set()  # streams whose request is still being sent
        self._answered: set[int] = set()  # whose response is
        self._waiting: list[int] = []  # whose request the server has seen
        self._left = streams
        self._agreed: list[h2.connection.H2Connection] = []  # whose settings are acknowledged
        self._settled: list[h2.connection.H2Connection] = []  # and who has had a block since

    def run(self) -> Recording:
        self._client.initiate_connection()
        self._server.initiate_connection()
        self._pass()
        while self._left or self._asked or self._answered or self._waiting:
            self.chance.choice((self._ask, self._ask, self._go_on, self._answer, self._respond, self._resize))()
            self._pass()
        return self.recording

    def _pass(self) -> None:
        for _ in range(2):
            self._move(REQUEST, self._client.data_to_send(), self._server)
            self._move(RESPONSE, self._server.data_to_send(), self._client)

    def _move(self, half: Half, data: bytes, to: h2.connection.H2Connection) -> None:
        while data:
            size = self.chance.choice((1, 9, 40, 1000, len(data)))
            self.recording.pieces.append((half, data[:size]))
            for event in to.receive_data(data[:size]):
                self._notice(event, to)
            data = data[size:]

    def _notice(self, event: h2.events.Event, at: h2.connection.H2Connection) -> None:
        if isinstance(event, h2.events.RequestReceived | h2.events.ResponseReceived) and at in self._agreed:
            self._agreed.remove(at)
            self._settled.append(at)
        if isinstance(event, h2.events.RequestReceived) and event.stream_id:
            self._waiting.append(event.stream_id)
        elif isinstance(event, h2.events.SettingsAcknowledged):
            self._agreed.append(at)
        elif isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
            at.acknowledge_received_data(event.flow_controlled_length, event.stream_id or 0)

    def _words(self, *names: bytes) -> Headers:
        """Some fields, of few and of many values, short and long."""
        values = (b"", b"a", b"%d" % self.chance.randrange(10**6), b"x" * self.chance.choice((20, 300, 3000)))
        some = [name for name in names if self.chance.random() < 0.6]
        return [(name, self.chance.choice(values)) for name in some]

    def _ask(self) -> None:
        if not self._left:
            return
        self._left -= 1
        stream = self._client.get_next_available_stream_id()
        path = self.chance.choice((b"/", b"/pkg.Service/Get", b"/items/%d" % self.chance.randrange(20)))
        fields = [(b":method", self.chance.choice((b"GET", b"POST", b"PUT"))), (b":scheme", b"http")]
        fields += [(b":authority", self.chance.choice((b"a.example", b"b.example"))), (b":path", path)]
        fields += self._words(b"user-agent", b"cookie", b"x-one", b"x-two", b"traceparent", b"content-type")
        ends = self.chance.random() < 0.5
        self._client.send_headers(stream, fields, end_stream=ends)
        self.recording.sent[stream] = Sent(dict(fields))
        if not ends:
            self._asked.add(stream)

    def _go_on(self) -> None:
        """A piece of a request's body, its end, or the client gives it up."""
        stream = self._pick(self._asked)
        sent = self.recording.sent.get(stream)
        if sent is None:
            return
        if self.chance.random() < 0.1 and stream in self._answered | set(self._waiting):
            self._give_up(stream, self._client)
            return
        size, ends = self.chance.randrange(60), self.chance.random() < 0.5
        self._client.send_data(stream, b"d" * size, end_stream=ends, pad_length=self.chance.choice((None, 0, 7)))
        sent.request_bytes += size
        if ends:
            self._asked.discard(stream)

    def _pick(self, streams: set[int]) -> int:
        return self.chance.choice(sorted(streams)) if streams else 0

    def _give_up(self, stream: int, by: h2.connection.H2Connection) -> None:
        by.reset_stream(stream, 8)
        self.recording.sent[stream].outcome = Outcome.RESET
        self._asked.discard(stream)
        self._answered.discard(stream)
        self._waiting = [s for s in self._waiting if s != stream]

    def _answer(self) -> None:
        """A response's head; perhaps an interim one before it, perhaps nothing behind it."""
        if not self._waiting:
            return
        stream = self._waiting.pop(self.chance.randrange(len(self._waiting)))
        sent = self.recording.sent[stream]
        if self.chance.random() < 0.3:
            self._server.send_headers(stream, [(b":status", b"103"), *self._words(b"link")])
        sent.status = self.chance.choice((200, 200, 204, 404, 418, 500))
        fields = [(b":status", b"%d" % sent.status), *self._words(b"content-type", b"set-cookie", b"server", b"x-a")]
        sent.response = dict(fields)
        ends = stream not in self._asked and self.chance.random() < 0.3
        self._server.send_headers(stream, fields, end_stream=ends)
        if not ends:
            self._answered.add(stream)

    def _respond(self) -> None:
        """A piece of a response's body, or its end, with trailers or without."""
        stream = self._pick(self._answered)
        if not stream:
            return
        sent = self.recording.sent[stream]
        done = stream not in self._asked
        if done and self.chance.random() < 0.05:
            self._give_up(stream, self._server)
        elif done and self.chance.random() < 0.3:
            trailers = [(b"grpc-status", b"%d" % self.chance.randrange(17)), *self._words(b"grpc-message", b"x-t")]
            sent.trailers = dict(trailers)
            self._server.send_headers(stream, trailers, end_stream=True)
            self._answered.discard(stream)
        else:
            size, ends = self.chance.randrange(60), done and self.chance.random() < 0.5
            self._server.send_data(stream, b"e" * size, end_stream=ends)
            sent.response_bytes += size
            self._answered -= {stream} if ends else set()

    def _resize(self) -> None:
        """One change at a time, and never to the size it has: h2 and hpack lose count of theirs otherwise."""
        side = self.chance.choice((self._client, self._server))
        if side in self._settled and self.chance.random() < 0.1:
            self._settled.remove(side)
            sizes = [size for size in (0, 100, 300, 4096, 16384) if size != side.local_settings.header_table_size]
            side.update_settings({SettingCodes.HEADER_TABLE_SIZE: self.chance.choice(sizes)})
