"""Scenes: compiled LIBERO tasks, and the simulations that step their episodes."""
