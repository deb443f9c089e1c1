"""The command `python -m libero_runtime.fidelity`: see `tools.fidelity`."""

import sys

from libero_runtime.tools.fidelity import main

if __name__ == "__main__":
    sys.exit(main())
