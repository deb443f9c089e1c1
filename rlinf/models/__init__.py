"""Policies behind one protocol. A new model is one file here and one row in ``POLICIES``."""

from rlinf.models.lora import find_experts, find_merged
from rlinf.models.policy import Policy, PolicyEval, PolicyInputs, PolicyOutput, PolicySource, ReplayablePolicy, Stated
from rlinf.models.registry import POLICIES, find_weights, load_policy, policy_kind

__all__ = [
    "POLICIES",
    "Policy",
    "PolicyEval",
    "PolicyInputs",
    "PolicyOutput",
    "PolicySource",
    "ReplayablePolicy",
    "Stated",
    "find_experts",
    "find_merged",
    "find_weights",
    "load_policy",
    "policy_kind",
]
