"""The command `python -m libero_runtime.expert_table`: see `tools.expert_table`."""

import sys

from libero_runtime.tools.expert_table import main

if __name__ == "__main__":
    sys.exit(main())
