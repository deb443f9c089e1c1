"""Someone stays when a run dies: a parent process that starts it again from what was saved."""

import ctypes
import errno
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection
from pathlib import Path

from libero_runtime.commands import refused
from rlinf.cli.console import EXIT_USER_ERROR, print_error, user_message

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FINAL = (0, EXIT_USER_ERROR, *(128 + number for number in STOPPING))
"""Exit codes after which nothing is tried again: done, a user's mistake, ended from outside."""

SI_KERNEL = 0x80  # how a signal says that the terminal sent it, and so to all processes of the command
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
GRACE_S = 5.0
PROGRAMMING_ERRORS = (ImportError, SyntaxError, NameError, AttributeError, TypeError, LookupError, AssertionError)
EXIT_BUG, EXIT_FULL = os.EX_SOFTWARE, os.EX_TEMPFAIL
FULL_S = 30.0  # until a full disk is tried again


def supervise(work: Callable[[bool], int], progress: Callable[[], object], *, max_restarts: int) -> int:
    """Do ``work`` in a child process, again where that dies; returns the exit code, in the parent and in each child.

    A full disk is tried again after a while, as often; the exit code then is that of a user's error. Mistakes in the
    program (``PROGRAMMING_ERRORS``) are not tried again. A ``RuntimeError`` may be one (a tensor of a wrong shape) or
    the machine's (CUDA): with the same words a second time, and no progress between, it is not tried again either. A
    worker that died or hung (``WorkerError``) is tried again as often as all else.

    The child is a fork, so this must be called before anything starts threads (torch, Ray). It ends with this process,
    and what it leaves behind when it dies, such as Ray's processes, is ended before another is started.

    work: is told whether it is the first; its exceptions are the caller's, in the child.
    progress: compared between two deaths; after ``max_restarts`` of them without any, the last exit code is returned.
    """
    waited_for = {number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN} | {signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    parent, restarts, seen, complaint = os.getpid(), 0, progress(), b""
    while True:
        sys.stdout.flush()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it has gone already
                return 128 + signal.SIGTERM
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return _work(work, complaints=writing, is_first=restarts == 0)
        os.close(writing)
        code, is_stopped = _wait(child, waited_for)
        _end_descendants()
        with os.fdopen(reading, "rb") as pipe:
            earlier, complaint = complaint, pipe.read()
        if code in FINAL or is_stopped:
            return code
        if code == EXIT_BUG:
            return 1
        now = progress()
        if complaint and (complaint, now) == (earlier, seen):
            print_error("the run failed a second time with the same words and no new checkpoint: it is not tried again")
            return code
        restarts = restarts + 1 if now == seen else 1
        seen = now
        if code == EXIT_FULL:
            if restarts > max_restarts:
                return EXIT_USER_ERROR
            print(f"the run is tried again in {FULL_S:.0f} s, restart {restarts} of {max_restarts}", flush=True)
            if (told := signal.sigtimedwait(waited_for - {signal.SIGCHLD}, FULL_S)) is not None:
                return 128 + told.si_signo
            continue
        how = f"was killed by signal {code - 128}" if code > 128 else f"failed (exit code {code})"
        if restarts > max_restarts:
            if max_restarts:
                print_error(
                    f"the run {how}: {max_restarts} restarts gave no new checkpoint, and there are no more "
                    "(runner.max_restarts). Run the same command again to continue from what was saved"
                )
            return code
        print(f"the run {how}; it goes on from what was saved, restart {restarts} of {max_restarts}", flush=True)


def _work(work: Callable[[bool], int], *, complaints: int, is_first: bool) -> int:
    """In the child: a full disk has an exit code of its own, since somebody else may make room, and so has a mistake in
    the program, which another try would only repeat. complaints: a pipe for what a ``RuntimeError`` says."""
    try:
        return work(is_first)
    except PROGRAMMING_ERRORS as error:
        if user_message(error) is not None:  # a package that is missing
            raise
        traceback.print_exception(error)
        return EXIT_BUG
    except Exception as error:
        if refused(error) not in (errno.ENOSPC, errno.EDQUOT):
            if isinstance(error, RuntimeError) and not _is_of_a_worker(error):
                said = str(getattr(error, "cause", error))  # without the process that Ray names around a worker's
                os.write(complaints, said.encode()[: select.PIPE_BUF])
            raise
        print_error(user_message(error) or str(error))
        return EXIT_FULL


def _is_of_a_worker(error: Exception) -> bool:
    """Whether a worker died or hung, which another try may spare it."""
    from rlinf.scheduler.worker_group import WorkerError  # Ray, which starts threads

    return isinstance(error, WorkerError)


def _wait(child: int, waited_for: Collection[int]) -> tuple[int, bool]:
    """The exit code of a process that ends by itself, or by a signal that is sent to this one and handed on; and
    whether there was such a signal."""
    is_stopped = False
    while True:
        told = signal.sigwaitinfo(waited_for)
        if told.si_signo in STOPPING:
            is_stopped = True
            if told.si_code != SI_KERNEL:
                os.kill(child, told.si_signo)
            continue
        while (ended := _reap()) is not None:
            pid, status = ended
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return (code if code >= 0 else 128 - code), is_stopped


def _reap() -> tuple[int, int] | None:
    """A child that has ended, or an orphan of one, and its status."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _end_descendants() -> None:
    """End what a child has left running: orphans are this process's children."""
    deadline = time.monotonic() + GRACE_S
    while True:
        while _reap() is not None:
            pass
        left = children(os.getpid())
        if not left:
            return
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def children(process: int) -> list[int]:
    """Processes whose parent this one is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == process:
            found.append(int(path.parent.name))
    return found


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
