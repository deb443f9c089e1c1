"""The short command for demonstrations of a suite: `demos.cli`."""

import sys

from libero_runtime.demos.cli import demos

if __name__ == "__main__":
    sys.exit(demos())
