"""Train a policy: python examples/embodiment/train_embodied_agent.py --config-name NAME [key=value ...]."""

from rlinf.cli.console import run_cli
from rlinf.cli.train import main

if __name__ == "__main__":
    run_cli(main)
