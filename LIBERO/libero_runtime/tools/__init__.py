"""Command lines that examine: the machine, fidelity to stock LIBERO, and the expert."""
