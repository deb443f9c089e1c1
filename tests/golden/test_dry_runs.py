"""``--dry-run`` of every launcher prints the committed commands and the checkpoints they end in (``dry_runs.txt``)."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from tests.golden import golden, subjects
from tests.golden.launches import CHECKPOINTS, LAUNCHES

COMMITTED = Path(__file__).parent / "dry_runs.txt"
SHOWN = re.compile(r"  (checkpoint|command) |task \d+, \d+ frames")
EXAMPLES = subjects.REPOSITORY / "examples"


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """The caller's folder: checkpoints of earlier runs, and demonstrations."""
    folder = tmp_path_factory.mktemp("work")
    for name, (files, config) in CHECKPOINTS.items():
        for step in (10, 20):
            actor = folder / name / "checkpoints" / f"global_step_{step}" / "actor"
            actor.mkdir(parents=True)
            for file in files:
                (actor / file).write_text("{}")
        (folder / name / "run.json").write_text(json.dumps({"config_name": config}))
    subjects.write_demonstrations(folder / "demonstrations")
    return folder


@pytest.fixture(scope="module")
def stub(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stub")


def committed() -> dict[str, str]:
    blocks = COMMITTED.read_text().split("\n\n") if COMMITTED.exists() else []
    return dict(block.strip("\n").split("\n", 1) for block in blocks)


def test_every_launcher_is_among_them():
    shared = {"launch.sh", "common_functions.sh"}
    there = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.glob("*/*.sh") if path.name not in shared}
    assert {script for script, _ in LAUNCHES} == there


@pytest.mark.parametrize(("script", "words"), LAUNCHES, ids=[shlex.join([name, *words]) for name, words in LAUNCHES])
def test_dry_run(work, stub, monkeypatch, script, words):
    if "{work}" not in "".join(words) and any(subjects.REPOSITORY.glob("logs*")):
        pytest.skip("results of earlier runs are part of the plan")
    monkeypatch.chdir(work)
    filled = [word.format(work=work) if "{work}" in word else word for word in words]
    done = subjects.launch(script, [*filled, "--dry-run"], stub=stub, environment=os.environ)
    lines = [line for line in done.output.splitlines() if SHOWN.match(line)]
    if done.code:
        lines = [f"exit code {done.code}"]
    text = "\n".join(lines).replace(str(work), "WORK").replace(str(subjects.REPOSITORY), "REPOSITORY")
    title = f"== {shlex.join([script, *words])}"
    if golden.is_rewritten():
        blocks = {**committed(), title: text}
        COMMITTED.write_text("\n\n".join(f"{name}\n{block}" for name, block in blocks.items()) + "\n")
    assert text == committed()[title]
