"""Continual-learning metrics, by the name that the project's description gives them: ``rlinf.reporting.metrics``."""

from rlinf.reporting.metrics import *  # noqa: F403
