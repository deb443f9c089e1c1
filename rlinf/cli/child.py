"""Run one command as a child that cannot outlive us.

Training starts a Ray cluster. A signal that reaches only this process, or this process being killed, must not leave
that cluster behind: signals are handed on, the child is told when its parent dies, and what remains of its process
group is ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 30.0  # for a signalled child to write what it must and to stop its workers
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run_child(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], grace_seconds: float = GRACE_SECONDS
) -> int:
    """Run ``command`` to its end and return its exit code, 128 + n when signal n ended it or us.

    The child reads nothing (nothing may prompt) and leads its own session, so that a Ctrl-C reaches it once, from us.
    """
    parent = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def die_with_parent() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the call took effect
                os._exit(1)

    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    # an ignored signal stays ignored, for us and the child: that is what nohup and `command &` in a script ask for
    heeded = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heeded}
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        code = _wait(process, received, grace_seconds)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _end_group(process.pid, grace_seconds=5.0)
    if received:
        return 128 + received[0]
    return code if code >= 0 else 128 - code


def _wait(process: subprocess.Popen[bytes], received: Sequence[int], grace_seconds: float) -> int:
    """Wait for the child; hand every signal on, and end the child when it ignores one for ``grace_seconds``."""
    handed_on, deadline = 0, float("inf")
    while True:
        try:
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            pass
        while handed_on < len(received):
            process.send_signal(received[handed_on])
            handed_on += 1
            deadline = min(deadline, time.monotonic() + grace_seconds)
        if time.monotonic() > deadline:
            process.kill()


def _end_group(group: int, *, grace_seconds: float) -> None:
    """End what the child left in its process group: politely, then for good."""
    deadline = time.monotonic() + grace_seconds
    signals = [signal.SIGTERM, signal.SIGKILL]
    while signals:
        try:
            os.killpg(group, signals.pop(0))
        except ProcessLookupError:
            return
        while time.monotonic() < deadline and _group_lives(group):
            time.sleep(0.05)
        deadline += 1.0


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
