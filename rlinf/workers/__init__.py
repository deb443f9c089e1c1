"""Ray workers: each joins an engine, a model or a simulator with the scheduler and holds no mathematics."""
