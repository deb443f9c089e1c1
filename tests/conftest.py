"""What holds for all tests."""

import signal

import pytest


def pytest_configure() -> None:
    """Let tests, and the processes they start, be interrupted.

    A shell without job control starts what it puts in the background with SIGINT ignored, which is inherited.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def small_policy(tmp_path_factory):
    """A small policy with random weights, one for all tests: they read it and change nothing."""
    from tests.small_policy import write_policy  # imports torch, which many tests do without

    return write_policy(tmp_path_factory.mktemp("policy") / "small")


@pytest.fixture(scope="session")
def autoregressive_policy(tmp_path_factory):
    """The same, token by token."""
    from tests.small_policy import write_policy

    return write_policy(tmp_path_factory.mktemp("policy") / "autoregressive", num_actions=1)
