# SPDX-License-Identifier: Apache-2.0
"""tests/go_talk as a process: In: jobs. Out: exchanges of Go's net/http with itself, of which the number is known."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


class Go:
    """A running tests/go_talk: `run` gives it a job and waits until it is done."""

    def __init__(self, program: Path, *flags: str) -> None:
        # In a directory of its own: build/ is on an overlay in a guest, where files have other inodes than maps say.
        self._folder = TemporaryDirectory()
        program = Path(shutil.copy(program, self._folder.name))
        self.process = subprocess.Popen([program, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._line())

    def run(self, **job: Any) -> int:
        assert self.process.stdin is not None
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return int(self._line())

    def keep(self, **job: Any) -> int:
        """As `run`, on one connection that all such jobs share."""
        return self.run(Connections=1, Keep=True, **job)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> None:
        """May be called again."""
        if self.process.returncode is not None:
            return
        with self.process:
            self.process.communicate(timeout=20)
        self._folder.cleanup()
        assert self.process.returncode == 0
