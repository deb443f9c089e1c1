"""Continual reinforcement learning of vision-language-action models."""
