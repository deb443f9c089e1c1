"""Command lines. Each is a thin shell over tested code; ``rlinf.cli.console`` gives them one way to fail."""
