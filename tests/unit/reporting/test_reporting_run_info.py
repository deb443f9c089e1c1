"""Run descriptions of the wrong shape, and the machine in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlinf.reporting import ReportingError, run_info
from rlinf.reporting.run_info import RunInfo


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read .*remove it, the next run writes it again"),
        ("[]", "cannot be read"),
        ('{"versions": []}', None),
        ('{"versions": ["a"]}', "cannot be read"),
        ('{"languages": {"a": "b"}}', "cannot be read .*'a'"),
        ('{"unknown": 1}', None),
    ],
)
def test_run_folders_of_the_wrong_shape_are_named(tmp_path: Path, text: str, message: str | None) -> None:
    (tmp_path / "run.json").write_text(text)
    if message is None:
        assert run_info.read(tmp_path) == RunInfo()
        return
    with pytest.raises(ReportingError, match=message) as caught:
        run_info.read(tmp_path)
    assert str(tmp_path / "run.json") in str(caught.value)


def test_hardware_is_described() -> None:
    facts = run_info.hardware()
    assert int(facts["cores"]) >= 1
    assert facts["processor"]
    assert facts["gpus"]
