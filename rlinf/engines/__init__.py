"""Training machinery on torch alone: process groups, FSDP2, updates, checkpoints. Nothing here knows Ray."""
