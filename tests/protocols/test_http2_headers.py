# SPDX-License-Identifier: Apache-2.0
"""Header blocks: RFC 7541's own examples, a table known in part, and a property: right or unknown, wherever joined."""

from __future__ import annotations

import random

import pytest
from hpack import Encoder
from hpack.table import HeaderTable

from instrumenter.protocols.http2_headers import MAX_LIST, UNKNOWN, FieldDecoder, FieldList
from instrumenter.protocols.http2_table import MAX_KEPT

Fields = list[tuple[bytes, bytes]]

GET: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
DATES = (b"Mon, 21 Oct 2013 20:13:21 GMT", b"Mon, 21 Oct 2013 20:13:22 GMT")
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
PRIVATE: Fields = [(b":status", b"302"), (b"cache-control", b"private"), (b"date", DATES[0]),
                   (b"location", b"https://www.example.com")]  # fmt: skip

# RFC 7541, appendix C: blocks of one connection, and their fields; C.5 and C.6 have a table of 256 bytes.
EXAMPLES = [
    ("C.2.1", 4096, ["400a637573746f6d2d6b65790d637573746f6d2d686561646572"], [[(b"custom-key", b"custom-header")]]),
    ("C.2.2", 4096, ["040c2f73616d706c652f70617468"], [[(b":path", b"/sample/path")]]),
    ("C.2.3", 4096, ["100870617373776f726406736563726574"], [[(b"password", b"secret")]]),
    ("C.2.4", 4096, ["82"], [[(b":method", b"GET")]]),
    ("C.3", 4096, ["828684410f7777772e6578616d706c652e636f6d", "828684be58086e6f2d6361636865"],
     [GET, [*GET, (b"cache-control", b"no-cache")]]),
    ("C.4", 4096, ["828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf"],
     [GET, [*GET, (b"cache-control", b"no-cache")]]),
    ("C.6", 256, ["488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff"
                  "6e919d29ad171863c78f0b97c8e9ae82ae43d3",
                  "4883640effc1c0bf",
                  "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94"
                  "e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"],
     [PRIVATE, [(b":status", b"307"), *PRIVATE[1:]],
      [(b":status", b"200"), PRIVATE[1], (b"date", DATES[1]), PRIVATE[3], (b"content-encoding", b"gzip"),
       (b"set-cookie", COOKIE)]]),
]  # fmt: skip


def pairs(found: FieldList) -> Fields:
    return [(f.name or b"?", f.value or b"") for f in found.fields]


@pytest.mark.parametrize(("size", "blocks", "expected"), [e[1:] for e in EXAMPLES], ids=[e[0] for e in EXAMPLES])
def test_examples_of_the_rfc(size: int, blocks: list[str], expected: list[Fields]) -> None:
    decoder = FieldDecoder()
    decoder.table.resize(size)
    assert [pairs(decoder.decode(bytes.fromhex(block))) for block in blocks] == expected
    assert decoder.failed == 0


@pytest.mark.parametrize(("size", "blocks", "expected"), [e[1:] for e in EXAMPLES], ids=[e[0] for e in EXAMPLES])
def test_examples_cut_at_every_byte(size: int, blocks: list[str], expected: list[Fields]) -> None:
    """A block that was cut gives its first fields; one that is just shorter is refused, or gives the first fields."""
    for at in range(len(blocks[0]) // 2):
        block = bytes.fromhex(blocks[0])[:at]
        found = FieldDecoder().decode(block, cut=True)
        assert pairs(found) == expected[0][: len(found.fields)]
        assert found.get(b"x-none") is UNKNOWN
        found = FieldDecoder().decode(block)
        assert pairs(found) == expected[0][: len(found.fields)]


def literal(name: bytes, value: bytes, first: int = 0x40) -> bytes:
    """Without Huffman; names and values below 127 bytes."""
    return bytes((first, len(name))) + name + bytes((len(value),)) + value


def test_an_unknown_past() -> None:
    """Static fields and literals at once; what is inserted from then on; the past once no room is left for it."""
    decoder = FieldDecoder(joined=True)
    found = decoder.decode(b"\x82\xbf\xbe\x86\xc5" + literal(b"x-a", b"1") + b"\xbe")
    assert pairs(found) == [(b":method", b"GET"), (b":scheme", b"http"), (b"x-a", b"1"), (b"x-a", b"1")]
    assert (found.get(b":path"), found.get(b"x-b"), found.get(b"x-a")) == (UNKNOWN, UNKNOWN, b"1")
    found = decoder.decode(b"\x84\xbe\xbf")
    assert pairs(found) == [(b":path", b"/"), (b"x-a", b"1")]
    assert (found.get(b":method"), found.get(b"x-b")) == (None, UNKNOWN)
    assert not decoder.table.is_whole
    decoder.decode(b"\x3f\x21")  # 64 bytes: room for x-a (36), and for less than another entry (32)
    assert decoder.table.is_whole
    assert pairs(decoder.decode(b"\xbe")) == [(b"x-a", b"1")]
    assert decoder.decode(b"\xbf").fields == ()
    assert decoder.failed == 1


def test_what_may_be_hidden() -> None:
    """Unknown fields before a pseudo-header field are of its kind, and those behind a regular one are too."""
    decoder = FieldDecoder(joined=True)
    early = decoder.decode(b"\xbe\x82" + literal(b"x-a", b"1", 0))
    assert (early.get(b":path"), early.get(b"x-b"), early.get(b"x-a")) == (UNKNOWN, None, b"1")
    late = decoder.decode(b"\x82" + literal(b"x-a", b"1", 0) + b"\xbe")
    assert (late.get(b":path"), late.get(b"x-b")) == (None, UNKNOWN)
    amid = decoder.decode(b"\x82\xbe" + literal(b"x-a", b"1", 0))
    assert (amid.get(b":path"), amid.get(b"x-b")) == (UNKNOWN, UNKNOWN)
    assert amid.joined(b"x-a") is UNKNOWN
    assert decoder.decode(literal(b"x", b"1", 0) * 2).joined(b"x") == b"1,1"


def test_an_unknown_name_enters() -> None:
    """A literal under a name of the past takes a place, and stays unknown; its neighbours do not."""
    decoder = FieldDecoder(joined=True)
    found = decoder.decode(literal(b"x-a", b"1") + b"\x7f\x00\x01v" + literal(b"x-b", b"2"))
    assert pairs(found) == [(b"x-a", b"1"), (b"x-b", b"2")]
    found = decoder.decode(b"\xbe\xbf\xc0")
    assert pairs(found) == [(b"x-b", b"2"), (b"x-a", b"1")]
    assert len(decoder.table) == 3


def test_an_entry_larger_than_the_table() -> None:
    """It empties the table (RFC 7541, 4.4); where the size is unknown, later indices count the same either way."""
    big = literal(b"x-big", b"b" * 60)
    decoder = FieldDecoder()
    decoder.decode(b"\x3f\x45" + literal(b"x-a", b"1") + big)  # 100 bytes
    assert (len(decoder.table), decoder.table.is_whole) == (1, True)
    decoder.decode(b"\x3f\x21" + literal(b"x-a", b"1"))
    assert len(decoder.table) == 1
    decoder.decode(big)
    assert len(decoder.table) == 0
    joined = FieldDecoder(joined=True)
    joined.decode(literal(b"x-a", b"1") + big)
    joined.decode(literal(b"x-c", b"3") + literal(b"x-d", b"4"))
    assert pairs(joined.decode(b"\xbe\xbf")) == [(b"x-d", b"4"), (b"x-c", b"3")]


def test_room_that_a_large_entry_leaves() -> None:
    """What is evicted takes all older entries with it, however much room is left then."""
    decoder = FieldDecoder(joined=True)
    decoder.decode(literal(b"x-big", b"b" * 60) + literal(b"x-a", b"1"))
    decoder.decode(b"\x3f\x45")  # 100 bytes, of which x-a takes 36
    assert (len(decoder.table), decoder.table.is_whole) == (1, True)


def test_a_table_that_grew_without_a_word() -> None:
    """An encoder that takes what SETTINGS allow: its entries are not taken for gone."""
    grown, strict = FieldDecoder(), FieldDecoder()
    grown.limit(1 << 16)
    for decoder in (grown, strict):
        for n in range(100):
            decoder.decode(literal(b"x-%d" % n, b"v" * 60))
    assert pairs(grown.decode(b"\xff\x22")) == [(b"x-0", b"v" * 60)]
    assert (strict.decode(b"\xff\x22").get(b"x-0"), strict.failed) == (UNKNOWN, 1)


REFUSED = [
    b"\x80",  # index 0
    b"\xbe",  # nothing there yet
    b"\xff\xff\xff\xff\xff\xff\xff\x01",  # an integer beyond any use
    b"\x82\x20",  # the table's size changes behind a field
    b"\x40\x05ab",  # a name cut
    b"\x40\x01a\x7f",  # a value cut
    b"\x40\x01a",  # no value
    b"\x00\x81\x00\x01a",  # Huffman padding with zeros
    b"\x04\x84\xff\xff\xff\xff",  # Huffman's end of string
]


@pytest.mark.parametrize("block", REFUSED, ids=bytes.hex)
def test_refused(block: bytes) -> None:
    """Nothing of the block is given, and the table is no longer trusted; it recovers."""
    decoder = FieldDecoder()
    decoder.decode(literal(b"x-a", b"1"))
    found = decoder.decode(b"\x84" + block) if block != b"\xbe" else decoder.decode(b"\x84\xbf")
    assert (found.fields, found.get(b":path"), decoder.failed) == ((), UNKNOWN, 1)
    assert decoder.decode(b"\xbe").get(b"x-a") is UNKNOWN
    assert pairs(decoder.decode(literal(b"x-b", b"2") + b"\xbe")) == [(b"x-b", b"2")] * 2


def test_what_nobody_asked_for_is_not_kept() -> None:
    decoder = FieldDecoder(frozenset((b":path", b"x-a")))
    found = decoder.decode(literal(b":path", b"/p") + literal(b"cookie", b"secret") + literal(b"x-a", b"1"))
    assert pairs(found) == [(b":path", b"/p"), (b"x-a", b"1")]
    assert "secret" not in repr(decoder.table._entries)
    assert pairs(decoder.decode(b"\xc0\xbf\xbe")) == [(b":path", b"/p"), (b"x-a", b"1")]


def test_limits() -> None:
    """A block of single bytes, each for a field of 4000; and a table larger than is kept."""
    decoder = FieldDecoder()
    decoder.decode(literal(b":path", b"/")[:-2] + b"\x7f\xa1\x1e" + b"p" * 4000)
    found = decoder.decode(b"\xbe" * 50_000)
    assert sum(len(f.value or b"") for f in found.fields) <= MAX_LIST
    assert found.get(b"x-late") is UNKNOWN
    decoder = FieldDecoder()
    decoder.table.resize(1 << 30)
    for _ in range(3000):
        decoder.decode(literal(b"x-a", b"1"))
    assert len(decoder.table) == MAX_KEPT // 36
    assert not decoder.table.is_whole
    assert decoder.decode(b"\xff\x80\x20").get(b"x-a") is UNKNOWN


def conversation(seed: int) -> tuple[list[bytes], list[Fields]]:
    """Blocks of hpack's encoder, whose table changes its size now and then, and the fields it was given."""
    chance = random.Random(seed)
    encoder = Encoder()
    encoder.header_table_size = chance.choice((0, 64, 200, 4096))
    names = [b"x-%d" % i for i in range(12)] + [name for name, _ in HeaderTable.STATIC_TABLE[14:30]]
    blocks, sent = [], []
    for _ in range(60):
        if chance.random() < 0.1:
            encoder.header_table_size = chance.choice((0, 64, 200, 500, 4096, 9000))
        fields = [(b":method", chance.choice((b"GET", b"PUT"))), (b":path", b"/%d" % chance.randrange(8))]
        values = (b"", b"%d" % chance.randrange(5), b"v" * chance.choice((40, 250)))
        fields += [(name, chance.choice(values)) for name in chance.sample(names, chance.randrange(6))]
        encoded = [(n, v, chance.random() < 0.1) for n, v in fields]
        blocks.append(encoder.encode(encoded, huffman=chance.random() < 0.5))
        sent.append(fields)
    return blocks, sent


def check(found: FieldList, sent: Fields) -> None:
    """Every field that is given was sent, in order; none that was sent is said to be absent."""
    given = iter(sent)
    assert all(pair in given for pair in pairs(found))
    assert all(found.get(name) in (value, UNKNOWN) for name, value in sent)
    assert found.get(b"x-none") is (UNKNOWN if found.hides_regular else None)


@pytest.mark.parametrize("seed", range(12))
def test_right_or_unknown_wherever_joined(seed: int) -> None:
    blocks, sent = conversation(seed)
    for start in range(len(blocks)):
        decoder = FieldDecoder(joined=start > 0)
        for block, fields in zip(blocks[start:], sent[start:], strict=True):
            found = decoder.decode(block)
            check(found, fields)
            if start == 0:
                assert pairs(found) == fields
            elif decoder.table.is_whole:
                assert not decoder.failed
        assert decoder.failed == 0


@pytest.mark.parametrize("seed", range(12))
def test_right_or_unknown_with_losses(seed: int) -> None:
    """Blocks lost, and said to be; blocks cut."""
    blocks, sent = conversation(seed)
    chance = random.Random(seed)
    for _ in range(20):
        decoder = FieldDecoder()
        for block, fields in zip(blocks, sent, strict=True):
            fate = chance.random()
            if fate < 0.05:
                decoder.forget()
            elif fate < 0.1:
                check(decoder.decode(block[: chance.randrange(len(block) + 1)], cut=True), fields)
            else:
                check(decoder.decode(block), fields)
        assert decoder.failed == 0


def test_recovers() -> None:
    """Fields come back as the table turns over; a name that each literal takes from the one before it does not."""
    encoder, decoder = Encoder(), FieldDecoder(joined=True)
    known = []
    for i in range(400):
        fields = [(b":path", b"/%d" % (i % 40)), (b"x-id", b"%d" % i), (b"x-new", b"%d" % i)]
        block = encoder.encode(fields[: 3 if i >= 60 else 2])
        if i >= 60:
            found = decoder.decode(block)
            check(found, fields)
            known.append(found.get(b":path") is not UNKNOWN)
            assert (found.get(b"x-id"), found.get(b"x-new")) == (UNKNOWN, fields[2][1])
    assert not any(known[:5])
    assert all(known[100:])
