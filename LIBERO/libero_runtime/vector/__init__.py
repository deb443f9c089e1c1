"""Many episodes at once, advanced chunk by chunk."""
