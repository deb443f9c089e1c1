"""The policy that is trained: where it starts, what is attached to it, and how it is stored."""
