"""The HTML report on full, partial and hostile data."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rlinf.cli import report as cli
from rlinf.reporting import ledger, run_info
from rlinf.reporting.ledger import EvaluationRecord
from rlinf.reporting.loggers import MetricLogger
from rlinf.reporting.report import ReportError, collect, write_report
from rlinf.reporting.video import Caption, write_video
from tests.study import write_record

PLACES = (
    "between the plate and the ramekin", "next to the ramekin", "from table center", "on the cookie box",
    "in the top drawer of the wooden cabinet", "on the ramekin", "next to the cookie box", "on the stove",
    "next to the plate", "on the wooden cabinet",
)  # fmt: skip
LANGUAGES = {task: f"pick up the black bowl {place} and place it on the plate" for task, place in enumerate(PLACES)}
BASE = (0.44, 0.52, 0.40, 0.62, 0.18, 0.36, 0.50, 0.58, 0.46, 0.24)
AFTER_0 = (0.68, 0.58, 0.44, 0.60, 0.20, 0.40, 0.54, 0.62, 0.44, 0.26)
AFTER_1 = (0.64, 0.80, 0.46, 0.66, 0.18, 0.44, 0.60, 0.60, 0.50, 0.22)


def write_evaluation(
    folder: Path,
    rates: Sequence[float],
    learnt: tuple[int, ...] = (),
    *,
    seed: int = 1234,
    method: str = "sequential",
    tasks: Sequence[int] | None = None,
    videos: tuple[str, ...] = (),
    checkpoint: str | None = None,
    episodes: int = 50,
) -> EvaluationRecord:
    ids = range(len(rates)) if tasks is None else tasks
    row = f"task_{learnt[-1]}" if learnt else "base"
    record = EvaluationRecord(
        method=method,
        row=row,
        learnt_tasks=learnt,
        seed=seed,
        suite="libero_spatial",
        checkpoint=checkpoint or (f"{row}_seed{seed}/checkpoints/global_step_10/actor" if learnt else "base"),
        success=dict(zip(ids, rates, strict=True)),
        episodes=dict.fromkeys(ids, episodes),
        success_once=float(np.mean(rates)),
        success_at_end=float(np.mean(rates)) * 0.97,
        mean_return=5 * float(np.mean(rates)),
        mean_episode_len=150.0,
        temperature=1.0,
        assets="altered 0123456789ab",
        config_hash="5f0c1d2e3a4b",
        versions={"torch": "2.13.0", "mujoco": "3.3.2"},
        time="2026-05-04T10:20:30+00:00",
        wall_seconds=75.0,
        videos=videos,
    )
    ledger.append(folder / ledger.LEDGER_NAME, record)
    return record


def write_training(folder: Path, task: int, *, epochs: int = 10, seed: int = 1234, start: float = 0.45) -> None:
    rng = np.random.default_rng(task)
    run = folder / f"task_{task}_seed{seed}"
    with MetricLogger(run, backends=[], project="p", experiment="e", config={}) as log:
        for epoch in range(1, epochs + 1):
            progress = 1 - np.exp(-epoch / 4)
            log.log(
                {
                    "rollout/success_rate": float(np.clip(start + 0.3 * progress + rng.normal(0, 0.03), 0, 1)),
                    "rollout/episode_len": 170 - 60 * progress + rng.normal(0, 4),
                    "train/loss/policy": -0.01 + rng.normal(0, 0.004),
                    "train/approx_kl": 0.004 + 0.003 * rng.random(),
                    "train/clip_fraction": 0.04 + 0.03 * rng.random(),
                    "train/grad_norm": 0.5 + 0.2 * rng.random(),
                    "train/entropy": 2.2 - 0.5 * progress,
                    "time/rollout": 24.0,
                    "time/update": 7.5,
                    "time/epoch": 32.5,
                },
                step=epoch,
            )
    write_run(run, seed)


def write_run(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "config_name": "crl_experiment/libero_spatial_grpo_tiny",
        "overrides": ["env.fixed_task_ids=[0]", "runner.logger.log_path=logs/a b"],
        "config_hash": "5f0c1d2e3a4b",
        "method": "sequential",
        "suite": "libero_spatial",
        "task_ids": [0],
        "seed": seed,
        "max_epochs": 10,
        "assets": "altered 0123456789ab",
        "languages": {str(task): text for task, text in LANGUAGES.items()},
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "hardware": {"cpus": 2, "gpus": 0, "machine": "x86_64"},
        "time": "2026-05-04T10:00:00+00:00",
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text("actor:\n  optim: {lr: 2.0e-05}\nalgorithm:\n  use_ewc: null\n  ids: [1, 2]\n")


def write_film(path: Path, *, success: bool) -> str:
    frames = []
    for number in range(20):
        frame = np.full((128, 128, 3), (196, 188, 172), np.uint8)
        frame[70:, :] = (150, 120, 90)
        frame[30 + number : 60 + number, 20 + 3 * number : 40 + 3 * number] = (40, 40, 45)
        frames.append(frame)
    write_video(path, frames, caption=Caption(task=LANGUAGES[0], success=success))
    return f"{path.parent.name}/{path.name}"


def write_sequence(folder: Path, *, seed: int = 1234, method: str = "sequential") -> Path:
    """Two tasks learnt in sequence, ten evaluated, with videos: what the quick start leaves behind."""
    before = write_film(folder / "videos" / "evaluation_before_task_0_init_3.webp", success=False)
    after = write_film(folder / "videos" / "evaluation_after_task_0_task_0_init_3.webp", success=True)
    shift = (seed % 7) / 100
    write_evaluation(folder, BASE, seed=seed, method=method, videos=(before,))
    write_training(folder, 0, seed=seed)
    write_evaluation(folder, [r + shift for r in AFTER_0], (0,), seed=seed, method=method, videos=(after,))
    write_training(folder, 1, seed=seed, start=0.56)
    write_evaluation(folder, [r + shift for r in AFTER_1], (0, 1), seed=seed, method=method)
    return folder


class Page(HTMLParser):
    """Collects tags, checks that they nest, and keeps the visible text."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        assert self.open == [], f"unclosed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))  # \s takes no-break spaces too


def page_of(folders: Sequence[Path], out: Path) -> Page:
    html = write_report(collect(folders), out).read_text(encoding="utf-8")
    page = Page(html)
    outside = [link for link in page.links if not link.startswith(("data:", "#"))]
    assert outside == []
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(|<script|<link", html), "the page must fetch nothing"
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page.text), page.text
    return page


def test_a_full_sequence(tmp_path: Path) -> None:
    page = page_of([write_sequence(tmp_path / "sequential")], tmp_path / "report.html")
    text = page.text
    assert "Sequential fine-tuning on LIBERO-Spatial" in text
    # AVG (0.64 + 0.80) / 2 and base (0.44 + 0.52) / 2, shifted by 2 points for seed 1234
    assert "tasks 0 and 1, one after the other, the policy succeeds in 74% of their episodes; the base model" in text
    assert "the base model succeeds in 48%. A gain of 26 points" in text
    # NBT is 0.68 minus 0.64, FWT 0.60 minus 0.52
    assert re.search(r"Forgetting NBT \+4 points", text)
    assert re.search(r"Forward transfer FWT \+8 points", text)
    assert re.search(r"Held-out tasks ZS 4\d%", text)
    assert "not LIBERO's official ones (recorded as: altered 0123456789ab)" in text
    assert "20 epochs in 2 stages" in text
    assert "evaluations of the task in training" in text
    assert "An epoch took 32 s on average (24 s rollout, 7.5 s update)." in text
    assert "pick up the black bowl on the cookie box" in text
    assert "actor.optim.lr" in text
    assert page.tags.count("img") == 2
    assert page.tags.count("svg") == 7
    assert "Base model: task 0, initial state 3" in text
    assert "After task 0: task 0, initial state 3" in text


def test_only_the_base_was_evaluated(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "sequential", BASE)
    text = page_of([tmp_path], tmp_path / "report.html").text
    assert "Nothing has been learnt yet" in text
    assert "NBT" not in text.split("All metrics")[0]
    assert "after task" not in text
    assert "at the end" not in text.split("All metrics")[0]


def test_one_task_has_no_forgetting_yet(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "sequential", BASE)
    write_evaluation(tmp_path / "sequential", AFTER_0, (0,))
    text = page_of([tmp_path], tmp_path / "report.html").text
    assert "After reinforcement learning on task 0, the policy succeeds in 68% of its episodes;" in text
    assert re.search(r"Forgetting NBT –", text)
    assert "Needs a task that was learnt before the last one." in text


def test_noise_is_called_noise(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "s", BASE, episodes=8)
    write_evaluation(tmp_path / "s", [rate + 0.05 for rate in BASE], (0,), episodes=8)
    assert "lies within the noise of the evaluation" in page_of([tmp_path], tmp_path / "report.html").text


def test_training_without_evaluations(tmp_path: Path) -> None:
    write_training(tmp_path / "logs" / "sequential", 3, epochs=1)
    text = page_of([tmp_path], tmp_path / "report.html").text
    assert "nothing has been evaluated yet" in text
    assert "1 epoch in 1 stage" in text
    assert "Task 3" in text


def test_without_a_base_evaluation(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "s", AFTER_0, (0,))
    write_evaluation(tmp_path / "s", AFTER_1, (0, 1))
    text = page_of([tmp_path], tmp_path / "report.html").text
    assert "The base model was not evaluated" in text
    assert re.search(r"Forward transfer FWT –", text)
    assert re.search(r"Forgetting NBT \+4 points", text)


def test_rows_with_a_gap_say_so_instead_of_guessing(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "s", BASE)
    write_evaluation(tmp_path / "s", AFTER_1, (0, 1))
    text = page_of([tmp_path], tmp_path / "report.html").text
    assert "an evaluation is missing" in text
    assert "Success matrix" not in text
    assert "task_1" in text, "the evaluations themselves are still listed"


def test_rows_that_evaluate_different_tasks_use_the_common_ones(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "s", BASE)
    write_evaluation(tmp_path / "s", AFTER_0[:3], (0,))
    text = page_of([tmp_path], tmp_path / "report.html").text
    assert "Left out, as not every evaluation covers them: tasks 3, 4, 5, 6, 7, 8 and 9" in text


def test_several_methods_and_seeds_are_compared(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_sequence(tmp_path / "logs" / "sequential", seed=seed)
    write_sequence(tmp_path / "logs" / "ewc", method="ewc")
    experiments = collect([tmp_path / "logs", tmp_path / "logs" / "ewc"])
    assert [(one.method, one.seed) for one in experiments] == [
        ("ewc", 1234), ("sequential", 1), ("sequential", 2), ("sequential", 3),
    ]  # fmt: skip
    assert [run.seed for run in experiments[2].training] == [2, 2]
    page = page_of([tmp_path], tmp_path / "report.html")
    assert "3 seeds: 1 , 2 , 3" in page.text
    assert [link for link in page.links if link.startswith("#")] == [f"#experiment-{n}" for n in (2, 3, 4, 1)]


def test_stages_appear_in_the_order_of_learning(tmp_path: Path) -> None:
    write_evaluation(tmp_path, BASE)
    write_evaluation(tmp_path, AFTER_1, (1,))
    write_evaluation(tmp_path, AFTER_1, (1, 0))
    for task in (0, 1, 2):
        write_training(tmp_path, task, epochs=2)
    (experiment,) = collect([tmp_path])
    assert [run.tasks for run in experiment.training] == [(1,), (0,), (2,)]


def test_text_from_files_cannot_become_markup(tmp_path: Path) -> None:
    write_evaluation(tmp_path, BASE, method="<script>alert(1)</script>", checkpoint='"><img src=https://x.org/a.png>')
    html = write_report(collect([tmp_path]), tmp_path / "r.html").read_text()
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html.lower()


def test_evaluations_logged_with_the_metrics_are_no_epochs(tmp_path: Path) -> None:
    with MetricLogger(tmp_path / "task_0_seed1", backends=[], project="p", experiment="e", config={}) as log:
        log.log({"eval/env_info/task_0_success": 0.25}, step=0)
        for step in (1, 2, 3, 4):
            log.log({"rollout/success_rate": 0.5}, step=step)
        log.log({"eval/env_info/task_0_success": 0.75, "eval/env_info/task_1_success": 0.1}, step=4)
    html = write_report(collect([tmp_path]), tmp_path / "r.html").read_text()
    assert "4 epochs in 1 stage" in html
    # Dots at the middle of each quarter, rings at the two ends, both at their heights from the top.
    assert 'd="M12.50 50.00h0M37.50 50.00h0M62.50 50.00h0M87.50 50.00h0"' in html
    assert 'class="ring" style="stroke:var(--t0)" d="M0.00 75.00h0M100.00 25.00h0"' in html


@pytest.mark.parametrize(
    ("chosen", "words"), [("null", "the same ones, as in the published experiments"), ("25-49", "25-49")]
)
def test_the_page_says_which_initial_states_were_trained_on(tmp_path: Path, chosen: str, words: str) -> None:
    write_record(tmp_path, "sequential", 1234, (0,), np.full(10, 0.5))
    write_training(tmp_path, 0, epochs=1)
    config = tmp_path / "task_0_seed1234" / "config.yaml"
    config.write_text(f"env: {{train: {{init_states: {chosen}}}}}", encoding="utf-8")
    page = page_of([tmp_path], tmp_path / "report.html")
    assert f"initial states 0-49; training starts from {words}" in page.text


def test_joint_training_of_all_tasks(tmp_path: Path) -> None:
    with MetricLogger(tmp_path / "tasks_all_seed1", backends=[], project="p", experiment="e", config={}) as log:
        log.log({"rollout/success_rate": 0.5}, step=1)
    assert "All tasks" in page_of([tmp_path], tmp_path / "report.html").text


def test_broken_numbers_in_metrics_do_not_break_the_page(tmp_path: Path) -> None:
    with MetricLogger(tmp_path / "task_0_seed1", backends=[], project="p", experiment="e", config={}) as log:
        for step, value in enumerate([float("nan"), 0.0, 0.0, float("inf")]):
            log.log({"rollout/success_rate": 0.5, "train/approx_kl": value, "train/entropy": 2.0}, step=step)
    page = page_of([tmp_path], tmp_path / "report.html")
    assert page.tags.count("svg") == 3


def test_videos_are_limited_and_counted(tmp_path: Path) -> None:
    names = tuple(write_film(tmp_path / "videos" / f"base_task_{n}.webp", success=True) for n in range(4))
    write_evaluation(tmp_path, BASE, videos=(*names, "videos/lost.webp"))
    html = write_report(collect([tmp_path]), tmp_path / "r.html", max_videos=3).read_text()
    assert html.count("data:image/webp") == 3
    assert "1 more video in the log folder" in html


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"neither evaluations.jsonl nor task_\*_seed\*/metrics.jsonl"):
        collect([tmp_path])
    with pytest.raises(ReportError, match="missing is no folder"):
        collect([tmp_path / "missing"])
    write_evaluation(tmp_path, BASE)
    with pytest.raises(ReportError, match="is a folder"):
        write_report(collect([tmp_path]), tmp_path)


def test_a_run_folder_is_read(tmp_path: Path) -> None:
    assert run_info.read(tmp_path) is None
    write_run(tmp_path, 7)
    info = run_info.read(tmp_path)
    assert info is not None
    assert (info.seed, info.suite, info.started) == (7, "libero_spatial", "2026-05-04T10:00:00+00:00")
    assert info.overrides == "'env.fixed_task_ids=[0]' 'runner.logger.log_path=logs/a b'"
    assert info.hardware == {"cpus": "2", "gpus": "0", "machine": "x86_64"}
    assert info.config == {"actor.optim.lr": "2e-05", "algorithm.use_ewc": "null", "algorithm.ids": "[1, 2]"}
    assert info.languages[3] == LANGUAGES[3]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sequence(tmp_path / "logs" / "sequential")
    out = tmp_path / "deep" / "report.html"
    assert cli.main([str(tmp_path / "logs"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert out.stat().st_size > 20_000


def test_command_line_errors_are_one_message_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlinf.cli.report", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: found neither evaluations.jsonl")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_losses_of_methods_get_their_own_panels(tmp_path: Path) -> None:
    with MetricLogger(tmp_path / "task_0_seed1", backends=[], project="p", experiment="e", config={}) as log:
        for step in (1, 2):
            log.log({"rollout/success_rate": 0.5, "train/loss/policy": 0.1, "train/loss/ewc_<b>": 0.2}, step=step)
    html = write_report(collect([tmp_path]), tmp_path / "r.html").read_text()
    assert "Loss: ewc &lt;b&gt;" in html
    assert "Value loss" not in html


def test_rows_of_joint_stages_have_short_names(tmp_path: Path) -> None:
    video = write_film(tmp_path / "videos" / "end_task_0_init_3.webp", success=True)
    record = write_evaluation(tmp_path, BASE)
    joint = dataclasses.replace(record, row="tasks_0_1_2_3_7", learnt_tasks=(0, 1, 2, 3, 7), videos=(video,))
    ledger.append(tmp_path / ledger.LEDGER_NAME, joint)
    page = page_of([tmp_path], tmp_path / "report.html")
    assert "after tasks 0–3, 7" in page.text
    assert "After tasks 0–3, 7: task 0, initial state 3" in page.text
