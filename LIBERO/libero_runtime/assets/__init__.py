"""LIBERO's models: whether a folder holds the official ones, and coarser ones that look the same, made from them."""
