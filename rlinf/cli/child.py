"""Run commands in a child that cannot outlive us.

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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType, TracebackType

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 30.0  # for a signalled child to write what it must and to stop its workers
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run_child(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], grace_seconds: float = GRACE_SECONDS
) -> int:
    """Run ``command`` to its end and return its exit code, 128 + n when signal n ended it or us."""
    with _Child(command, cwd=cwd, env=env, grace_seconds=grace_seconds) as child:
        code = child.wait()
    assert code is not None
    return code


class Series:
    """Commands that one child carries out, one after the other: what it makes for one is there for the next.

    program: is given the number of a file descriptor as its last argument, and reads its commands with ``commands``.
    It is started with the first one, and ends with the last one or with the ``with`` block.
    """

    def __init__(self, program: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        self._program, self._cwd, self._env = program, cwd, env
        self._stack = ExitStack()
        self._child: _Child | None = None

    def run(self, command: Sequence[str], *, is_last: bool) -> int:
        """Carry out ``command``: 0, or the exit code of the child where it ended, as ``run_child`` returns it.

        A child that was told that this is the last command ends, and is waited for.
        """
        if self._child is None:
            self._child = self._start()
        with suppress(BrokenPipeError):  # it has ended, and says how below
            self._connection.send((list(command), is_last))
        return self._child.wait(until=self._is_done) or 0

    def _start(self) -> _Child:
        self._connection, theirs = Pipe()
        with theirs:
            words = [*self._program, str(theirs.fileno())]
            child = _Child(words, cwd=self._cwd, env=self._env, pass_fds=[theirs.fileno()])
            self._stack.enter_context(child)
        self._stack.callback(child.wait)
        self._stack.enter_context(self._connection)  # closed first, which tells the child that nothing follows
        return child

    def _is_done(self) -> bool:
        """Whether the child reports that it has carried out its command; one that ends does not."""
        try:
            return self._connection.poll() and self._connection.recv() is None
        except (EOFError, ConnectionResetError):
            return False

    def __enter__(self) -> Series:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def commands(descriptor: int) -> Iterator[list[str]]:
    """In the child of a ``Series``: its commands. Asking for the next one reports the one before as carried out."""
    os.set_inheritable(descriptor, False)
    with Connection(descriptor) as connection:
        is_last = False
        while not is_last:
            try:
                command, is_last = connection.recv()
            except EOFError:
                return
            yield command
            if not is_last:
                connection.send(None)


class _Child:
    """A running process; what is left of it and of its process group ends with the ``with`` block.

    It reads nothing (nothing may prompt) and leads its own session, so that a Ctrl-C reaches it once, from us.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        grace_seconds: float = GRACE_SECONDS,
        pass_fds: Collection[int] = (),
    ) -> None:
        self._grace_seconds = grace_seconds
        self._received: list[int] = []  # signals
        self._handed_on = 0
        parent = os.getpid()
        libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

        def die_with_parent() -> None:
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
                if os.getppid() != parent:  # it died before the call took effect
                    os._exit(1)

        def note(number: int, _frame: FrameType | None) -> None:
            self._received.append(number)

        with ExitStack() as stack:
            for number in FORWARDED:
                # an ignored signal stays ignored, for us and the child: that is what nohup and `command &` in a script
                # ask for
                if signal.getsignal(number) is not signal.SIG_IGN:
                    stack.callback(signal.signal, number, signal.signal(number, note))
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=die_with_parent,
                pass_fds=pass_fds,
            )
            self._handlers = stack.pop_all()

    def wait(self, *, until: Callable[[], bool] = lambda: False) -> int | None:
        """Wait for the end; hand every signal on, and kill a process that ignores one for ``grace_seconds``.

        Returns its exit code, 128 + n when signal n ended it or us, or None while it runs as soon as ``until()`` holds.
        """
        deadline = float("inf")
        while True:
            try:
                code = self._process.wait(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                pass
            while self._handed_on < len(self._received):
                self._process.send_signal(self._received[self._handed_on])
                self._handed_on += 1
            if self._received:
                deadline = min(deadline, time.monotonic() + self._grace_seconds)
                if time.monotonic() > deadline:
                    self._process.kill()
            elif until():
                return None
        if self._received:
            return 128 + self._received[0]
        return code if code >= 0 else 128 - code

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.close()
        _end_group(self._process.pid, grace_seconds=5.0)


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
