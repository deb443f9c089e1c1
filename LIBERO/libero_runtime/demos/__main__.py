"""The command for demonstrations: `demos.cli`."""

from libero_runtime.demos.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
