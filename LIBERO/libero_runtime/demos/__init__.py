"""Demonstrations of the scripted expert, recorded by many processes into LIBERO's HDF5 layout."""
