"""What holds for all tests."""

import signal


def pytest_configure() -> None:
    """Let tests, and the processes they start, be interrupted.

    A shell without job control starts what it puts in the background with SIGINT ignored, which is inherited.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
