"""What the expert can do: each skill reaches one predicate of a goal."""
