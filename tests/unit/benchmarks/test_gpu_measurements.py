"""What the documentation says of a GPU is of the code that is here, or says that it is not."""

import json

import pytest

from benchmarks import exchange, gpu, scaling
from benchmarks.code_on_gpu import PATHS, REPOSITORY, code, fingerprint
from benchmarks.gpus import first_gpus

KERNEL = '''
"""About the module."""
import triton.language as tl


def kernel(x: tl.tensor, size: tl.constexpr) -> None:
    """About the kernel.

    More.
    """
    # Why.
    value = tl.load(x)  # what
    text = "# no comment"
'''


def published():
    return json.loads(gpu.PUBLISHED.read_text(encoding="utf-8"))


def section():
    page = gpu.PAGE.read_text(encoding="utf-8")
    assert page.count(gpu.BEGIN) == page.count(gpu.END) == 1
    return page[page.index(gpu.BEGIN) + len(gpu.BEGIN) : page.index(gpu.END)].strip()


def test_a_gpu_has_run_this_code_or_the_page_says_that_none_has():
    now = fingerprint()
    stated = f"**{gpu.NOT_RUN}** (now code {now})" in section()
    assert published()["code"] == now or stated, (
        f"what a GPU executes ({', '.join(PATHS)}) has changed since the run in docs/benchmarks.md. On a GPU: "
        "bash benchmarks/gpu.sh; python -m benchmarks.gpu --publish logs/gpu/gpu.json. Without one: "
        'python -m benchmarks.gpu --not-run "what has changed"'
    )


def test_the_page_shows_the_published_run():
    results = published()
    shown = "\n".join(gpu.table(results))
    rest = section().removeprefix(shown).strip()
    assert rest != section(), "python -m benchmarks.gpu --publish docs/gpu.json"
    assert not rest or rest.startswith(f"**{gpu.NOT_RUN}**")
    assert not results["quick"]
    assert results["tests"]["passed"] > 0
    assert "failed" not in results["tests"]


def test_every_path_has_files():
    for pattern in PATHS:
        assert list(REPOSITORY.glob(pattern)), pattern


@pytest.mark.parametrize(
    ("before", "after"),
    [("# Why.", "# Why, in other words."), ("About the kernel.", "Of it."), ("  # what", ""), ("\n\n\n", "\n")],
)
def test_words_do_not_count(before, after):
    assert before in KERNEL
    assert code(KERNEL.replace(before, after)) == code(KERNEL)


@pytest.mark.parametrize(
    ("before", "after"), [("x: tl.tensor", "x: Any"), ("tl.load(x)", "tl.load(x, 0)"), ("# no comment", "# none")]
)
def test_code_and_annotations_count(before, after):
    assert before in KERNEL
    assert code(KERNEL.replace(before, after)) != code(KERNEL)


def test_stating_that_code_has_not_run(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{gpu.BEGIN}\nold\n{gpu.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(gpu, "PAGE", page)
    gpu.say_not_run("a new kernel")
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{gpu.BEGIN}\n")
    assert text.endswith(f"{gpu.END}\nafter\n")
    assert f"**{gpu.NOT_RUN}** (now code {fingerprint()}): a new kernel" in text
    assert "old" not in text


def test_runs_of_other_code_are_not_published(tmp_path, monkeypatch):
    file, run = tmp_path / "gpu.json", published()
    monkeypatch.setattr(gpu, "PUBLISHED", tmp_path / "published.json")
    for changed, message in (({"code": "0" * 12}, "is of code"), ({"quick": True}, "no full run")):
        file.write_text(json.dumps({**run, **changed}), encoding="utf-8")
        with pytest.raises(SystemExit, match=message):
            gpu.publish(file)
    assert not gpu.PUBLISHED.exists()


def test_more_gpus_than_there_are_is_one_message(monkeypatch, tmp_path, capsys):
    """Two would otherwise be measured as four."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert first_gpus(1, flag="--ranks 1") == "3"
    monkeypatch.setattr("sys.argv", ["scaling", "--parts", "4", "--out", str(tmp_path), "--commit", "abc"])
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").touch()
    assert scaling.main() == 2
    assert "needs 4 GPUs, and there are 2" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["exchange", "--ranks", "3"])
    assert exchange.main() == 2
    assert "--ranks 3 needs 3 GPUs, and there are 2" in capsys.readouterr().err


def test_communication_is_exposed_where_nothing_runs_beside():
    communication, others = [(0.0, 4.0), (10.0, 12.0), (11.0, 13.0)], [(3.0, 8.0), (7.0, 9.0)]
    assert exchange.length(communication) == 7.0
    assert exchange.length([*communication, *others]) - exchange.length(others) == 6.0
