"""Starting processes in tests."""

import signal


def heed_signals() -> None:
    """Give a new process the default answers to SIGINT and SIGHUP (as ``preexec_fn``).

    A shell starts background jobs with SIGINT ignored and ``nohup`` ignores SIGHUP, which everything below them
    inherits, test runs too.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
