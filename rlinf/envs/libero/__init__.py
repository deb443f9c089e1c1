"""LIBERO (arXiv:2306.03310) through the bundled ``libero_runtime``."""
