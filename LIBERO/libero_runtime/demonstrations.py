"""The command for demonstrations, with all options by name: `demos.cli`."""

import sys

from libero_runtime.demos.cli import demonstrations

if __name__ == "__main__":
    sys.exit(demonstrations())
