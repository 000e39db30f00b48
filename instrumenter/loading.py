# SPDX-License-Identifier: Apache-2.0
"""Loads the probes while the rest of the agent is still being imported and built.

In: the settings. Out: a loaded, not yet attached `Program`. The rule: nothing is attached here, and whatever goes wrong
is raised where the result is asked for. The kernel's verifier takes most of the agent's start; it runs without the GIL.
"""

from __future__ import annotations

import os
import threading

from instrumenter.bpf.early import Early
from instrumenter.bpf.libbpf import library
from instrumenter.bpf.program import Program
from instrumenter.config import Settings
from instrumenter.sizes import Sizes, derive_sizes, kernel_settings, machine_memory, make_histograms


class Loading:
    """Begins at once, in a thread. That thread imports nothing: two threads importing one package can deadlock."""

    def __init__(self, settings: Settings, early: Early, recording: bool = False) -> None:
        """recording: every exchange is to come up, also without an exporter of spans."""
        self._early = early
        self.sizes: Sizes = derive_sizes(machine_memory(), library().cpus, settings)
        spans = recording or bool(settings.exporters_of("traces"))
        self.constants = kernel_settings(settings, make_histograms(settings), self.sizes, spans, os.getpid())
        self._attach = None if settings.ebpf.attach == "auto" else settings.ebpf.attach
        self._program: Program | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def result(self) -> Program:
        """The program, to be closed by who asked. Raises CannotStart."""
        self._thread.join()
        if self._program is None:
            assert self._error is not None
            raise self._error
        return self._program

    def _run(self) -> None:
        try:
            trial = self._early.trial()
            self._program = Program.load(self.constants, self.sizes.maps, self._attach, self._early.path, trial)
        except Exception as error:  # noqa: BLE001  for `result` to raise, in the main thread
            self._error = error
