"""``python -m rlinf.cli.train_steps DESCRIPTOR``: the training runs of a launcher, in one process.

Each comes as the words of a command line of ``train_embodied_agent.py`` (see ``rlinf.cli.child.Series``). The cluster
and its workers serve all of them: starting workers takes longer than building a policy, and what was compiled for one
task serves the next.
"""

from collections.abc import Sequence

from rlinf.cli.child import commands
from rlinf.cli.console import run_cli
from rlinf.cli.train import read, train
from rlinf.workers.session import Session


def main(argv: Sequence[str]) -> int:
    """Train until there is nothing left to do; returns the exit code."""
    with Session() as session:
        for words in commands(int(argv[0])):
            request = read(words)
            if request is not None:
                train(request, session)
    return 0


if __name__ == "__main__":
    run_cli(main)
