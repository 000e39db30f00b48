# SPDX-License-Identifier: Apache-2.0
"""Which way to each hook is taken, given what a kernel accepts: every kind of kernel as a row, none needed."""

from __future__ import annotations

import pytest

from instrumenter.bpf.choose import HOOKS, REQUIRED, choose, first_reason
from instrumenter.errors import CannotStart

PROGRAMS = sorted({p for hook in HOOKS for way in hook.ways.values() for p in way} | REQUIRED)
SENDPAGE = {"fexit_sendpage": None, "kprobe_sendpage": None, "kretprobe_sendpage": None}
NO_FENTRY = {"fentry_send": "no trampolines", "fexit_send": "no trampolines", "fexit_recv": "no trampolines"}
NO_KPROBE = dict.fromkeys(("kprobe_send", "kretprobe_send", "kprobe_recv", "kprobe_read"), "no kprobes")
NO_SOCKET: dict[str, str | None] = dict.fromkeys(("tp_send_begins", "tp_sent", "tp_received"))
NO_TRACEPOINT = {"tp_sys_enter": "no tracepoints", "tp_sys_exit": "no tracepoints"}
Answers = dict[str, str | None]


def ask(answers: Answers, forced: str | None = None, present: list[str] = PROGRAMS) -> tuple[dict[str, str], set[str]]:
    choice = choose(present, lambda program: answers.get(program, ""), forced)
    return choice.modes, set(choice.programs) - REQUIRED


@pytest.mark.parametrize(
    ("answers", "forced", "modes"),
    [
        ({}, None, {"send": "fentry", "recv": "fentry", "sendpage": "fentry"}),
        (SENDPAGE, None, {"send": "fentry", "recv": "fentry"}),
        (NO_FENTRY | SENDPAGE, None, {"send": "kprobe", "recv": "kprobe"}),
        (NO_FENTRY, None, {"send": "kprobe", "recv": "kprobe", "sendpage": "fentry"}),
        (NO_FENTRY | NO_KPROBE | SENDPAGE, None, {"send": "socket", "recv": "socket"}),
        (NO_FENTRY | NO_KPROBE | NO_SOCKET, None, {"send": "tracepoint", "recv": "tracepoint"}),
        ({"fexit_send": "too many arguments"}, None, {"send": "kprobe", "recv": "fentry", "sendpage": "fentry"}),
        # One function that only the syscalls show brings all to the syscalls.
        (
            {"fexit_recv": "x", "kprobe_read": "y", "tp_received": None},
            None,
            {"send": "tracepoint", "recv": "tracepoint"},
        ),
        (NO_TRACEPOINT, None, {"send": "fentry", "recv": "fentry", "sendpage": "fentry"}),
        ({}, "kprobe", {"send": "kprobe", "recv": "kprobe", "sendpage": "kprobe"}),
        (SENDPAGE, "kprobe", {"send": "kprobe", "recv": "kprobe"}),
        ({}, "socket", {"send": "socket", "recv": "socket"}),
        ({}, "tracepoint", {"send": "tracepoint", "recv": "tracepoint"}),
    ],
)
def test_modes(answers: Answers, forced: str | None, modes: dict[str, str]) -> None:
    found, programs = ask(answers, forced)
    assert found == modes
    assert programs == {p for hook in HOOKS if hook.name in modes for p in hook.ways[modes[hook.name]]}


@pytest.mark.parametrize(
    ("answers", "forced", "message"),
    [
        (NO_FENTRY, "fentry", "--attach fentry is refused.*fentry_send: no trampolines.*leave --attach out"),
        (NO_KPROBE, "kprobe", "--attach kprobe is refused.*no kprobes"),
        (NO_TRACEPOINT, "tracepoint", "--attach tracepoint is refused.*no tracepoints"),
        (
            NO_FENTRY | NO_KPROBE | NO_SOCKET | NO_TRACEPOINT,
            None,
            "no way to watch.*send.*no trampolines.*no kprobes.*no trace",
        ),
        ({"fexit_recv": "x", "kprobe_recv": "y"} | NO_SOCKET | NO_TRACEPOINT, None, "no way to watch a socket's recv"),
        (
            {"fentry_send": None, "kprobe_send": None} | NO_SOCKET | NO_TRACEPOINT,
            None,
            "no such function in this kernel",
        ),
        ({"proc_exec": "bad"}, None, "refuses the probe proc_exec: bad"),
        ({"sock_state": None}, None, "refuses the probe sock_state: its tracepoint is not in this kernel"),
    ],
)
def test_hopeless(answers: Answers, forced: str | None, message: str) -> None:
    with pytest.raises(CannotStart, match=message):
        ask(answers, forced)


def test_what_is_not_in_this_kernel_is_left_out_without_a_word_what_is_refused_is_named() -> None:
    answers: Answers = {**SENDPAGE, "kretprobe_send": "busy", "dns": "no such helper", "absent": None}
    choice = choose([*PROGRAMS, "dns", "absent", "extra"], lambda program: answers.get(program, ""), "tracepoint")
    assert choice.refused == (("dns", "no such helper"),)
    assert choice.programs == REQUIRED | {"tp_sys_enter", "tp_sys_exit", "extra"}


def test_a_way_that_was_not_built_is_not_taken() -> None:
    modes, _ = ask({}, present=[p for p in PROGRAMS if not p.startswith(("fentry", "fexit"))])
    assert modes == {"send": "kprobe", "recv": "kprobe", "sendpage": "kprobe"}


def test_the_kernel_is_asked_about_each_program_once_and_only_if_needed() -> None:
    asked: list[str] = []

    def accepts(program: str) -> str:
        asked.append(program)
        return ""

    choose(PROGRAMS, accepts, None)
    assert sorted(asked) == sorted({"fentry_send", "fexit_send", "fexit_recv", "fexit_sendpage"} | REQUIRED)


VERIFIER = """\
libbpf: prog 'fexit_recv': BPF program load failed: Permission denied
libbpf: prog 'fexit_recv': -- BEGIN PROG LOAD LOG --
0: (79) r6 = *(u64 *)(r1 +0)
R1 invalid mem access 'scalar'
processed 12 insns (limit 1000000) max_states_per_insn 0
-- END PROG LOAD LOG --
libbpf: prog 'fexit_recv': failed to load: -13
libbpf: failed to load object 'probes.bpf.o'""".splitlines()


@pytest.mark.parametrize(
    ("log", "errno", "reason"),
    [
        (VERIFIER, 13, "Permission denied: R1 invalid mem access 'scalar'"),
        (VERIFIER[-2:], 13, "Permission denied"),
        ([], 524, "not supported by this kernel"),
    ],
)
def test_first_reason(log: list[str], errno: int, reason: str) -> None:
    assert first_reason(log, errno) == reason
