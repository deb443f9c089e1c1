"""The HTML report on full, partial and hostile data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rlinf.cli.console import user_message
from rlinf.reporting import ReportingError, run_info
from rlinf.reporting.diagnoses import Diagnosis
from rlinf.reporting.jsonlines import append_record
from rlinf.reporting.loggers import MetricLogger
from rlinf.reporting.report import collect, write_report
from rlinf.reporting.report.changes import change_rows
from rlinf.reporting.report.compare import MethodRuns
from rlinf.reporting.video import write_video
from tests.study import BASE, LANGUAGES, write_record

AFTER_0 = (0.68, 0.58, 0.44, 0.60, 0.20, 0.40, 0.54, 0.62, 0.44, 0.26)
AFTER_1 = (0.64, 0.80, 0.46, 0.66, 0.18, 0.44, 0.60, 0.60, 0.50, 0.22)
BOTH = ((), (0,), (0, 1))


def write_rows(
    folder: Path, *rows: tuple[int, ...], method: str = "sequential", seed: int = 1, episodes: int = 50
) -> None:
    """Evaluations after these tasks, with the rates above."""
    for learnt in rows:
        write_record(folder, method, seed, learnt, (BASE, AFTER_0, AFTER_1)[len(learnt)], episodes=episodes)


def write_metrics(run: Path, *steps: dict[str, float], first: int = 1) -> Path:
    with MetricLogger(run, backends=[], project="p", experiment="e", config={}) as log:
        for step, values in enumerate(steps, start=first):
            log.log(values, step=step)
    return run


def write_training(folder: Path, task: int, *, epochs: int = 10, seed: int = 1) -> None:
    rng = np.random.default_rng(task)
    names = ("rollout/episode_len", "train/loss/policy", "train/approx_kl", "train/clip_fraction", "train/grad_norm")
    times = {"time/rollout": 24.0, "time/update": 7.5, "time/epoch": 32.5}
    steps = [
        {"rollout/success_rate": rng.random(), "train/entropy": 2.0, **{name: rng.normal() for name in names}, **times}
        for _ in range(epochs)
    ]
    write_run(write_metrics(folder / f"task_{task}_seed{seed}", *steps), seed)


def write_run(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "config_name": "crl_experiment/libero_spatial_grpo_tiny",
        "overrides": ["env.fixed_task_ids=[0]", "runner.logger.log_path=logs/a b"],
        "method": "sequential",
        "suite": "libero_spatial",
        "seed": seed,
        "max_epochs": 10,
        "languages": LANGUAGES,
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "hardware": {"cpus": 2, "gpus": 0, "machine": "x86_64"},
        "time": "2026-05-04T10:00:00+00:00",
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text("actor:\n  optim: {lr: 2.0e-05}\nalgorithm:\n  use_ewc: null\n  ids: [1, 2]\n")


def video_file(path: Path) -> str:
    write_video(path, [np.zeros((64, 64, 3), np.uint8)] * 2, task="a task", success=True, steps=[2, 4])
    return f"{path.parent.name}/{path.name}"


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


def page_of(*folders: Path) -> Page:
    """The page on these folders: it fetches nothing and shows no number that is none."""
    html = write_report(collect(folders), folders[0].parent / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert [link for link in page.links if not link.startswith(("data:", "#"))] == []
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(|<script|<link", html), "the page must fetch nothing"
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page.text), page.text
    return page


def test_a_full_sequence(tmp_path: Path) -> None:
    """Two tasks learnt in sequence, ten evaluated, with videos: what the quick start leaves behind."""
    folder = tmp_path / "sequential"
    names = ("evaluation_before_task_0_init_3.webp", "evaluation_after_task_0_task_0_init_3.webp")
    for learnt, rates, *videos in zip(BOTH, (BASE, AFTER_0, AFTER_1), (*names, ""), strict=True):
        shown = tuple(video_file(folder / "videos" / name) for name in videos if name)
        write_record(folder, "sequential", 1, learnt, rates, videos=shown)
    for task in (0, 1):
        write_training(folder, task)
    page = page_of(folder)
    text = page.text
    assert "Sequential fine-tuning on LIBERO-Spatial" in text
    # AVG is the mean of 0.64 and 0.80, base of 0.44 and 0.52
    assert "tasks 0 and 1, one after the other, the policy succeeds in 72% of their episodes; the base model" in text
    assert "the base model succeeds in 48%. A gain of 24 points" in text
    # NBT is 0.68 minus 0.64, FWT 0.58 minus 0.52
    assert re.search(r"Forgetting NBT \+4 points", text)
    assert re.search(r"Forward transfer FWT \+6 points", text)
    assert re.search(r"Held-out tasks ZS 4\d%", text)
    assert "not LIBERO's official ones (recorded as: altered 1ef524f5e7df)" in text
    assert "20 epochs in 2 stages" in text
    assert "evaluations of the task in training" in text
    assert "An epoch took 32 s on average (24 s rollout, 7.5 s update)." in text
    assert "pick up the black bowl on the cookie box" in text
    assert "actor.optim.lr" in text
    assert (page.tags.count("img"), page.tags.count("svg")) == (2, 7)
    assert "Base model: task 0, initial state 3" in text
    assert "After task 0: task 0, initial state 3" in text


NEEDS = "Needs a task that was learnt before the last one."


@pytest.mark.parametrize(
    ("rows", "episodes", "shown", "hidden"),
    [
        ([()], 50, ["Nothing has been learnt yet"], ["Forgetting NBT", "after task", "at the end"]),
        ([(), (0,)], 50, ["on task 0, the policy succeeds in 68% of its episodes;", "Forgetting NBT –", NEEDS], []),
        ([(), (0,)], 3, ["lies within the noise of the evaluation"], ["A gain"]),
        (
            [(0,), (0, 1)], 50,
            ["The base model was not evaluated", "Forward transfer FWT –", "Forgetting NBT +4 points"], [],
        ),
        ([(), (0, 1)], 50, ["an evaluation is missing", "task_1"], ["Success matrix"]),
    ],
)  # fmt: skip
def test_partial_sequences(
    tmp_path: Path, rows: list[tuple[int, ...]], episodes: int, shown: list[str], hidden: list[str]
) -> None:
    write_rows(tmp_path / "s", *rows, episodes=episodes)
    text = page_of(tmp_path / "s").text
    assert [words for words in shown if words not in text] == []
    assert [words for words in hidden if words in text.split("All metrics")[0]] == []


def test_training_without_evaluations(tmp_path: Path) -> None:
    write_training(tmp_path / "logs" / "sequential", 3, epochs=1)
    write_metrics(tmp_path / "joint" / "tasks_all_seed1", {"rollout/success_rate": 0.5})
    text = page_of(tmp_path / "logs").text
    for words in ("nothing has been evaluated yet", "1 epoch in 1 stage", "Task 3"):
        assert words in text
    assert "All tasks" in page_of(tmp_path / "joint").text


def test_rows_that_evaluate_different_tasks_use_the_common_ones(tmp_path: Path) -> None:
    write_rows(tmp_path, ())
    write_record(tmp_path, "sequential", 1, (0,), AFTER_0[:3])
    assert "Left out, as not every evaluation covers them: tasks 3, 4, 5, 6, 7, 8 and 9" in page_of(tmp_path).text


def test_several_methods_and_seeds_are_compared(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_rows(tmp_path / "logs" / "sequential", *BOTH, seed=seed)
        write_training(tmp_path / "logs" / "sequential", 0, seed=seed, epochs=2)
    write_rows(tmp_path / "logs" / "ewc", *BOTH, method="ewc")
    experiments = collect([tmp_path / "logs", tmp_path / "logs" / "ewc"])
    found = [(one.method, one.seed, [run.seed for run in one.training]) for one in experiments]
    assert found == [("ewc", 1, []), *(("sequential", seed, [seed]) for seed in (1, 2, 3))]
    page = page_of(tmp_path / "logs")
    assert "3 seeds: 1 , 2 , 3" in page.text
    assert [link for link in page.links if link.startswith("#")] == [f"#experiment-{n}" for n in (2, 3, 4, 1)]


def test_what_training_changed_is_a_mean_over_seeds(tmp_path: Path) -> None:
    """KL on learnt tasks is that of the tasks learnt by then; a checkpoint that was not evaluated is in no row."""
    logs = tmp_path / "logs"
    for seed, kl in ((1, {0: 0.1, 1: 0.3, 5: 0.01}), (2, {0: 0.2, 1: 0.4, 5: 0.03})):
        write_rows(logs / "sequential", *BOTH, seed=seed)
        for learnt, step in (((0,), 6), ((0, 1), 6), ((0, 1), 3)):
            about = {"method": "sequential", "suite": "libero_spatial", "seed": seed, "learnt_tasks": learnt}
            numbers = {"effective_rank": 20.0 + 2 * seed if step == 6 else 90.0, "relative_change": 0.002, "kl": kl}
            numbers["fisher_energy"] = {0: 0.5, 1: 0.5 + seed} if learnt == (0, 1) else {}
            checkpoint = f"task_{learnt[-1]}_seed{seed}/global_step_{step}"
            rest = {"checkpoint": checkpoint, "temperature": 1.0, "frames": 8, "time": "2026-05-04T10:00:00+00:00"}
            append_record(logs / "sequential" / "diagnostics.jsonl", Diagnosis(**about, **numbers, **rest))
    write_rows(logs / "ewc", *BOTH, method="ewc", seed=1)
    experiments = collect([logs])
    rows = change_rows(MethodRuns.of(*(one for one in experiments if one.method == "sequential")))
    assert [(policy, seeds) for policy, seeds, _ in rows] == [("after task 0", 2), ("after task 1", 2)]
    values = [[cell.value for cell in cells if cell] for *_, cells in rows]
    assert values[0] == pytest.approx([23, 0.002, 0.15, 0.02])
    assert values[1] == pytest.approx([23, 0.002, 0.25, 0.02, 1.25])
    text = page_of(logs).text
    assert text.count("What training changed") == 3, "the comparison, and each of the two seeds"
    assert re.search(r"Sequential fine-tuning, after task 1 2 23\.0 [−\d.-]+ to [\d.]+ 0\.20%", text)
    assert "What training changed" not in page_of(logs / "ewc").text


def test_stages_appear_in_the_order_of_learning(tmp_path: Path) -> None:
    for learnt in ((), (1,), (1, 0)):
        write_record(tmp_path, "sequential", 1, learnt, BASE)
    for task in (0, 1, 2):
        write_training(tmp_path, task, epochs=2)
    (experiment,) = collect([tmp_path])
    assert [run.tasks for run in experiment.training] == [(1,), (0,), (2,)]


def test_text_from_files_cannot_become_markup(tmp_path: Path) -> None:
    hostile = '"><img src=https://x.org/a.png>'
    write_record(tmp_path, "<script>alert(1)</script>", 1, (), BASE, checkpoint=hostile)
    write_metrics(tmp_path / "task_0_seed1", {"train/loss/policy": 0.1, "train/loss/ewc_<b>": 0.2})
    html = write_report(collect([tmp_path]), tmp_path / "r.html").read_text()
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html.lower()
    assert "Loss: ewc &lt;b&gt;" in html, "what a method adds to the loss has a panel of its own"
    assert "Value loss" not in html


def test_evaluations_logged_with_the_metrics_are_no_epochs(tmp_path: Path) -> None:
    trained = [{"rollout/success_rate": 0.5}] * 3
    last = {"rollout/success_rate": 0.5, "eval/env_info/task_0_success": 0.75, "eval/env_info/task_1_success": 0.1}
    write_metrics(tmp_path / "task_0_seed1", {"eval/env_info/task_0_success": 0.25}, *trained, last, first=0)
    html = write_report(collect([tmp_path]), tmp_path / "r.html").read_text()
    assert "4 epochs in 1 stage" in html
    # Dots at the middle of each quarter, rings at the two ends, both at their heights from the top.
    assert 'd="M12.50 50.00h0M37.50 50.00h0M62.50 50.00h0M87.50 50.00h0"' in html
    assert 'class="ring" style="stroke:var(--t0)" d="M0.00 75.00h0M100.00 25.00h0"' in html


@pytest.mark.parametrize(
    ("chosen", "words"), [("null", "the same ones, as in the published experiments"), ("25-49", "25-49")]
)
def test_the_page_says_which_initial_states_were_trained_on(tmp_path: Path, chosen: str, words: str) -> None:
    write_rows(tmp_path, (0,))
    write_training(tmp_path, 0, epochs=1)
    (tmp_path / "task_0_seed1" / "config.yaml").write_text(f"env: {{train: {{init_states: {chosen}}}}}")
    assert f"initial states 0-49; training starts from {words}" in page_of(tmp_path).text


def test_broken_numbers_in_metrics_do_not_break_the_page(tmp_path: Path) -> None:
    steps = [
        {"rollout/success_rate": 0.5, "train/approx_kl": value, "train/entropy": 2.0}
        for value in (float("nan"), 0.0, 0.0, float("inf"))
    ]
    write_metrics(tmp_path / "task_0_seed1", *steps)
    assert page_of(tmp_path).tags.count("svg") == 3


def test_videos_are_limited_and_counted(tmp_path: Path) -> None:
    names = tuple(video_file(tmp_path / "videos" / f"base_task_{n}.webp") for n in range(7))
    write_record(tmp_path, "sequential", 1, (), BASE, videos=(*names, "videos/lost.webp"))
    html = write_report(collect([tmp_path]), tmp_path / "r.html").read_text()
    assert html.count("data:image/webp") == 6
    assert "1 more video in the log folder" in html


def test_rows_of_joint_stages_have_short_names(tmp_path: Path) -> None:
    video = video_file(tmp_path / "videos" / "end_task_0_init_3.webp")
    write_rows(tmp_path, ())
    write_record(tmp_path, "sequential", 1, (0, 1, 2, 3, 7), BASE, row="tasks_0_1_2_3_7", videos=(video,))
    text = page_of(tmp_path).text
    assert "after tasks 0–3, 7" in text
    assert "After tasks 0–3, 7: task 0, initial state 3" in text


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReportingError, match="missing is no folder"):
        collect([tmp_path / "missing"])
    command = [sys.executable, "-m", "rlinf.cli.report", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: found neither evaluations.jsonl nor task_*_seed*/metrics.jsonl")
    assert "Traceback" not in done.stderr
    write_rows(tmp_path, ())
    with pytest.raises(IsADirectoryError) as caught:
        write_report(collect([tmp_path]), tmp_path)
    assert str(user_message(caught.value)).startswith(f"{tmp_path}: Is a directory; there is a folder where a file")


def test_a_run_folder_is_read(tmp_path: Path) -> None:
    assert run_info.read(tmp_path) is None
    write_run(tmp_path, 7)
    info = run_info.read(tmp_path)
    assert info is not None
    assert (info.suite, info.started) == ("libero_spatial", "2026-05-04T10:00:00+00:00")
    assert info.overrides == "'env.fixed_task_ids=[0]' 'runner.logger.log_path=logs/a b'"
    assert info.hardware == {"cpus": "2", "gpus": "0", "machine": "x86_64"}
    assert info.config == {"actor.optim.lr": "2e-05", "algorithm.use_ewc": "null", "algorithm.ids": "[1, 2]"}
    assert info.languages[3] == LANGUAGES["3"]
