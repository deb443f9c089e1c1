"""Sequences of tasks: what is trained and evaluated in which folder, from which checkpoint, by which command."""
