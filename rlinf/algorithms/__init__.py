"""Pure tensor mathematics of reinforcement learning: no configuration, no rank, no logging."""
