"""Policies behind one protocol. A new model is one file here and one row in ``POLICIES``."""

from rlinf.models.policy import Policy, PolicyEval, PolicyInputs, PolicyOutput, PolicySource, ReplayablePolicy
from rlinf.models.registry import POLICIES, load_policy

__all__ = [
    "POLICIES",
    "Policy",
    "PolicyEval",
    "PolicyInputs",
    "PolicyOutput",
    "PolicySource",
    "ReplayablePolicy",
    "load_policy",
]
