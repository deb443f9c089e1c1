"""Many episodes at once: in threads, in processes, and as a Gymnasium environment."""
