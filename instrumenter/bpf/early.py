# SPDX-License-Identifier: Apache-2.0
"""What this kernel accepts, found out while the agent still imports what it will load the probes with.

In: the mode that the user forces, if any. Out: a `Trial` that knows the answers. The rule: it decides nothing and hides
nothing: what fails here fails again in `Program.load`, which says it. The thread imports nothing, as two threads that
import one package can deadlock.
"""

from __future__ import annotations

import threading
from pathlib import Path

from instrumenter.bpf.choose import NEEDED_FUNCTION, Trial, choose
from instrumenter.bpf.libbpf import library, object_path
from instrumenter.bpf.objfile import BpfObject


class Early:
    """Begins at once. Raises CannotStart if there is no libbpf, or no object for this machine."""

    def __init__(self, forced: str | None = None) -> None:
        self._lib, self._path, self._forced = library(), object_path(), forced
        self._trial: Trial | None = None
        self._thread = threading.Thread(target=self._run, name="try", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        return self._path

    def trial(self) -> Trial | None:
        """None if something went wrong."""
        self._thread.join()
        return self._trial

    def _run(self) -> None:
        try:
            opened = BpfObject(self._lib, self._path)
            sections = opened.sections()
            opened.close()
            trial = Trial(self._lib, sections)
            try:
                trial.has(NEEDED_FUNCTION)
                choose(list(sections), trial.accepts, self._forced)
            finally:
                trial.close()
            self._trial = trial
        except Exception:  # noqa: BLE001  Program.load tries again and says it
            self._trial = None
