"""Starting processes in tests."""

import signal


def heed_interrupts() -> None:
    """Give a new process the default answer to SIGINT (as ``preexec_fn``).

    A shell starts background jobs with SIGINT ignored, which everything below them inherits, test runs too.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
