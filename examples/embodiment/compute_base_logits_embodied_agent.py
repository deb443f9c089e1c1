"""Base-model logits of demonstrations: python compute_base_logits_embodied_agent.py [CONFIG_NAME] [key=value ...]."""

from rlinf.cli.console import run_cli
from rlinf.cli.precompute_logits import main

if __name__ == "__main__":
    run_cli(main)
