"""Processes that keep what they have made, such as compiled scenes, from one job to the next."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

_kept: Any = None  # of a worker: what it made


class WorkerProcess:
    """A process of one's own, which makes something once and keeps it: jobs are calls of its methods.

    It ends with its parent, however that ends; Ctrl-C is for the parent to deal with.
    """

    def __init__(self, make: Callable[..., object], *arguments: object, environment: Mapping[str, str]) -> None:
        """Called first in the process, with `environment` added to its own: `make(*arguments)`."""
        self._initargs = environment, make, arguments
        self._start()

    def _start(self) -> None:
        self._pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_begin, initargs=self._initargs
        )
        others = set(multiprocessing.active_children())
        self._pool.submit(int)  # starts the process
        (self.process,) = set(multiprocessing.active_children()) - others

    def submit(self, method: str, *arguments: object) -> Future[Any]:
        """Call a method there (what it yields becomes a list); the result is `BrokenProcessPool` when it died."""
        try:
            return self._pool.submit(_call, method, arguments)
        except BrokenProcessPool as error:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def replace(self) -> str:
        """Start another process in the place of one that died; returns which one that was and how it ended."""
        deadline = time.monotonic() + 10
        # The pool's own thread may have taken the exit code from the system, and not have noted it yet.
        while (code := self.process.exitcode) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        pid = self.process.pid
        self.end()
        self._start()
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
        return f"process {pid} {how}"

    def end(self) -> None:
        """End the process, whatever it is at."""
        self.process.kill()
        self._pool.shutdown(cancel_futures=True)


def _begin(environment: Mapping[str, str], make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    global _kept
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)
    _kept = make(*arguments)


def _call(method: str, arguments: tuple[object, ...]) -> object:
    result = getattr(_kept, method)(*arguments)
    return list(result) if isinstance(result, Iterator) else result


def _end_with_parent() -> None:
    """A pool's process would not notice that its parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
