"""The command `python -m libero_runtime.doctor`: see `tools.doctor`."""

import sys

from libero_runtime.tools.doctor import main

if __name__ == "__main__":
    sys.exit(main())
