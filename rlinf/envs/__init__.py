"""Simulators behind one protocol. A new simulator is one folder here and one row in ``SIMULATORS``."""

from rlinf.envs.registry import SIMULATORS, init_states, make_env, playable_tasks, suite_tasks
from rlinf.envs.vector_env import TaskInfo, VectorEnv

__all__ = ["SIMULATORS", "TaskInfo", "VectorEnv", "init_states", "make_env", "playable_tasks", "suite_tasks"]
