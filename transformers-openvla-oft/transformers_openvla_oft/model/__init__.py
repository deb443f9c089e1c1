"""The networks, what they compute with, and how actions are read from them."""
