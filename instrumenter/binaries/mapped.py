# SPDX-License-Identifier: Apache-2.0
"""The files whose code a process runs: what uprobes of its libraries can be put on.

In: /proc/PID/maps. Out: one `MappedFile` for each file that is mapped executable. The rule this file protects: a file
is what (device, inode) says, never what its path says. Two versions side by side, a library that was deleted or
replaced while it is mapped, and the same path in another mount namespace stay apart, and the path that is opened is
checked against the inode. Format: proc_pid_maps(5); /proc/PID/map_files wants CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# start-end perms offset major:minor inode path; the kernel writes newlines in the path as \012
_LINE: Final = re.compile(
    r"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ..x. ([0-9a-f]{1,16}) ([0-9a-f]+:[0-9a-f]+) ([1-9]\d{0,19})\s+(\S.*)"
)
_ESCAPE: Final = re.compile(r"\\012")
_DELETED: Final = " (deleted)"
_FILES_MAX: Final = 4096  # of one process; a large Java or Electron process has some hundreds


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A file that is mapped executable: start, end, offset of the first such mapping (addresses; bytes in the file).

    path: as the process saw it when it was mapped, without " (deleted)". device: "major:minor", which may differ from
    stat(2)'s on btrfs and overlayfs, so it only tells files of the same process apart.
    """

    pid: int
    start: int
    end: int
    offset: int
    device: str
    inode: int
    path: str
    deleted: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def paths(self, root: str = "/proc") -> tuple[str, str]:
        """Where it may be opened from here, best first; see `openable`."""
        directory = f"{root}/{self.pid}"
        return f"{directory}/map_files/{self.start:x}-{self.end:x}", f"{directory}/root{self.path}"

    def openable(self, root: str = "/proc") -> str:
        """A path that leads to this very file, for reading and for uprobes; "" if none does."""
        return next((path for path in self.paths(root) if _leads_to(path, self.inode)), "")


def mapped_files(pid: int, root: str = "/proc") -> tuple[MappedFile, ...]:
    """Executable mappings in the order of addresses, each file once; empty if it is gone or not ours to see."""
    try:
        with open(f"{root}/{pid}/maps", encoding="utf-8", errors="surrogateescape", newline="\n") as lines:  # noqa: PTH123
            return tuple(parse_maps(pid, lines))
    except OSError:
        return ()


def parse_maps(pid: int, lines: Iterable[str]) -> Iterator[MappedFile]:
    """The lines of /proc/PID/maps; what is no file (the stack, vdso, JIT code) is passed over."""
    seen: set[tuple[str, int]] = set()
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        start, end, offset, device, inode, path = match.groups()
        key = (device, int(inode))
        if key in seen:
            continue
        if len(seen) >= _FILES_MAX:
            return
        seen.add(key)
        path = _ESCAPE.sub("\n", path)
        yield MappedFile(
            pid,
            int(start, 16),
            int(end, 16),
            int(offset, 16),
            device,
            int(inode),
            path.removesuffix(_DELETED),
            path.endswith(_DELETED),
        )


def _leads_to(path: str, inode: int) -> bool:
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return False
    return found.st_ino == inode and stat.S_ISREG(found.st_mode)
