"""The continual-learning layer: methods, task sequences, metrics."""
