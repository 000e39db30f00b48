# SPDX-License-Identifier: Apache-2.0
"""A tiny BTF reader: structs and enums of an ELF object, for comparing Python's layouts with the compiler's.

In: an object file. Out: struct -> (size, {field: (offset, size)}), enum -> {name: value}. Format:
Documentation/bpf/btf.rst. The one rule: what it does not understand raises, it never guesses.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from elftools.elf.elffile import ELFFile

INT, POINTER, ARRAY, STRUCT, UNION, ENUM = 1, 2, 3, 4, 5, 6
TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC = 8, 9, 10, 11, 12, 13, 14, 15
FLOAT, TAG, ENUM64 = 16, 17, 19
# words after the 12 bytes of struct btf_type: (per type, per member)
_TAILS = {INT: (1, 0), ARRAY: (3, 0), STRUCT: (0, 3), UNION: (0, 3), ENUM: (0, 2), FUNC_PROTO: (0, 2), VAR: (1, 0),
          DATASEC: (0, 3), TAG: (1, 0), ENUM64: (0, 3)}  # fmt: skip


class Type(NamedTuple):
    name: str
    kind: int
    flag: bool
    size: int  # or the type referred to
    words: tuple[int, ...]


class Btf:
    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            section = ELFFile(file).get_section_by_name(".BTF")
            assert section is not None, f"{path} has no BTF"
            data = section.data()
        magic, _, _, header, type_at, type_len, text_at, text_len = struct.unpack_from("<HBBIIIII", data)
        assert magic == 0xEB9F, f"{path}: not little-endian BTF"
        self._texts = data[header + text_at : header + text_at + text_len]
        self.types = [Type("void", 0, False, 0, ())]
        raw, at = data[header + type_at : header + type_at + type_len], 0
        while at < len(raw):
            name, info, size = struct.unpack_from("<III", raw, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            once, each = _TAILS.get(kind, (0, 0))
            words = struct.unpack_from(f"<{once + each * count}I", raw, at + 12)
            self.types.append(Type(self.text(name), kind, bool(info >> 31), size, words))
            at += 12 + 4 * len(words)

    def text(self, offset: int) -> str:
        return self._texts[offset : self._texts.index(b"\0", offset)].decode()

    def size_of(self, number: int) -> int:
        kind = self.types[number]
        if kind.kind in (TYPEDEF, VOLATILE, CONST, RESTRICT, TAG):
            return self.size_of(kind.size)
        if kind.kind == ARRAY:
            return self.size_of(kind.words[0]) * kind.words[2]
        if kind.kind == POINTER:
            return 8
        assert kind.kind in (INT, STRUCT, UNION, ENUM, FLOAT, ENUM64), kind
        return kind.size

    def struct(self, name: str) -> tuple[int, dict[str, tuple[int, int]]]:
        """(size, {field: (offset in bytes, size)}) of a struct without bit fields."""
        found = next(t for t in self.types if t.kind == STRUCT and t.name == name)
        fields = {}
        for i in range(0, len(found.words), 3):
            field, number, bits = found.words[i : i + 3]
            bit_field = (found.flag and bits >> 24) or bits % 8
            assert not bit_field, f"{name}.{self.text(field)} is a bit field"
            fields[self.text(field)] = ((bits & 0xFFFFFF) // 8, self.size_of(number))
        return found.size, fields

    def enums(self) -> dict[str, dict[str, int]]:
        """All named enums of 32 bits."""
        return {
            t.name: {self.text(t.words[i]): t.words[i + 1] for i in range(0, len(t.words), 2)}
            for t in self.types
            if t.kind == ENUM and t.name
        }
