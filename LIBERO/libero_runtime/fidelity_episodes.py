"""The command `python -m libero_runtime.fidelity_episodes`: see `tools.fidelity_episodes`."""

import sys

from libero_runtime.tools.fidelity_episodes import main

if __name__ == "__main__":
    sys.exit(main())
