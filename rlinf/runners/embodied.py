"""Training: sync weights, collect, update, log, save; again."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray

from rlinf.config import Config, ConfigError, resolve_adapter
from rlinf.config.resolve import MERGING_METHOD
from rlinf.config.validate import episodes_per_epoch
from rlinf.custom.methods import TaskContext, make_method
from rlinf.custom.sequence.lineage import Lineage
from rlinf.data import Collected, CollectRequest, EpisodePlan
from rlinf.envs import init_states, playable_tasks
from rlinf.envs.episodes import training_plans
from rlinf.reporting import ledger
from rlinf.reporting.ledger import EvaluatedPolicy
from rlinf.reporting.progress import Progress
from rlinf.reporting.trace import RECORDER, TraceFile, traced
from rlinf.run_layout import (
    BASE_ROW,
    LEDGER_FILE,
    TRACE_FILE,
    Checkpoint,
    checkpoints,
    task_name,
)
from rlinf.runners.collect import collect
from rlinf.runners.evaluation import base_policy, evaluate, evaluate_suites, trained_policy
from rlinf.runners.run_folder import metric_logger
from rlinf.runners.saving import CheckpointWriter
from rlinf.scheduler.worker_group import WorkerGroup
from rlinf.workers.launch import Workers, attach_envs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunState:
    """How far a run has come before it is started; ``missing_base``, ``missing_after``: suites that the base model and
    what is learnt are still to be evaluated on."""

    folder: Path
    checkpoint: Checkpoint | None
    task_ids: tuple[int, ...]
    learnt_before: tuple[int, ...]
    missing_base: tuple[str, ...]
    missing_after: tuple[str, ...]

    @property
    def epoch(self) -> int:
        return self.checkpoint.step if self.checkpoint else 0

    @property
    def learnt_tasks(self) -> tuple[int, ...]:
        return learnt_with(self.learnt_before, self.task_ids)


def find_state(config: Config, folder: Path) -> RunState:
    """Look at a run's folder: its newest checkpoint, where it started from, and what was evaluated.

    Raises:
        ConfigError: a task that other tasks were learnt after is to be learnt again.
    """
    found, records = checkpoints(folder), ledger.read(folder.parent / LEDGER_FILE)
    task_ids = tuple(playable_tasks(config.env, config.env.fixed_task_ids))
    before: tuple[int, ...] = ()
    model = config.actor.model
    earlier = [*model.previous_lora_paths, *(model.task_lora_paths or ())]
    for path in [*earlier, *([model.lora_path] if model.lora_path else [])]:
        lineage = Lineage.load(resolve_adapter(path))
        before = learnt_with(before, lineage.learnt_tasks) if lineage else before
    if learnt_with(before, task_ids)[-len(task_ids) :] != task_ids:
        raise ConfigError(
            f"what this starts from has learnt tasks {list(before)} in this order, so {list(task_ids)} cannot be "
            "learnt after them: a success matrix has one row for each task, in the order of learning. Start from a "
            "checkpoint that has not learnt it, or from its own"
        )
    suites = (config.env.suite, *config.env.eval_suites)
    missing = partial(
        ledger.not_evaluated,
        records,
        suites,
        method=config.results_name,
        seed=config.runner.seed,
        temperatures=config.env.eval.temperatures,
    )
    result = Checkpoint.at(folder, config.runner.max_epochs)
    return RunState(
        folder=folder,
        checkpoint=found[-1] if found else None,
        task_ids=task_ids,
        learnt_before=before,
        missing_base=missing(row=BASE_ROW),
        missing_after=missing(row=task_name(task_ids), checkpoint=result),
    )


def task_context(config: Config, state: RunState) -> TaskContext:
    """What a continual-learning method is told about the task of a run."""
    start = config.actor.model.lora_path
    return TaskContext(
        state.task_ids,
        state.folder,
        state.learnt_before,
        suite=config.env.suite,
        micro_batch=config.actor.micro_batch_size,
        previous=resolve_adapter(start) if start else None,
        merged=tuple(resolve_adapter(path) for path in config.actor.model.previous_lora_paths),
        temperature=config.algorithm.sampling_params.temperature_train,
        seed=config.runner.seed,
        cameras=tuple(config.env.cameras),
    )


def lineage_of(config: Config, state: RunState) -> Lineage:
    """What the checkpoints of a run say of where they come from."""
    model, method = config.actor.model, config.method
    return Lineage(
        method=config.results_name,
        suite=config.env.suite,
        seed=config.runner.seed,
        learnt_tasks=state.learnt_tasks,
        stage=state.task_ids,
        base_model=config.actor.checkpoint_load_path,
        merged=tuple(model.previous_lora_paths),
        merge_coeff=method.merge.coeff if method.name == MERGING_METHOD else None,
        picture_path=model.picture_path,
        cameras=tuple(config.env.cameras),
        unnorm_key=model.unnorm_key,
        experts=None if model.task_lora_paths is None else tuple(model.task_lora_paths),
    )


def learnt_with(before: tuple[int, ...], task_ids: tuple[int, ...]) -> tuple[int, ...]:
    """Tasks learnt after ``task_ids``, in order; one that goes on learning is there once."""
    return tuple(dict.fromkeys((*before, *task_ids)))


class EmbodiedRunner:
    """Trains one task (or several jointly) and evaluates before and after, as configured."""

    def __init__(self, config: Config, workers: Workers, state: RunState, *, asset_kind: Callable[[str], str]) -> None:
        self.config = config
        self.workers = workers
        self.state = state
        self.asset_kind = asset_kind
        self.task = task_context(config, state)
        self.epoch = 0
        self._collects = make_method(config.method).collects
        self._meeting = TemporaryDirectory(prefix="rlinf_")  # the driver's, since workers are killed in the end
        self._epoch_ended: float | None = None
        self._meanwhile = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._ahead: Future[Collected] | None = None
        self._weights: list[ray.ObjectRef[Any]] | None = None  # of the learners, asked for before they save
        self._checkpoints = CheckpointWriter(
            self.actor, state.folder, lineage_of(config, state), keep=config.runner.keep_checkpoints
        )
        self.logger = metric_logger(config, state.folder)
        RECORDER.is_on = config.runner.trace
        self._trace = TraceFile(state.folder / TRACE_FILE) if config.runner.trace else None

    @property
    def actor(self) -> WorkerGroup:
        """The learners; only a training run has them."""
        assert self.workers.actor is not None
        return self.workers.actor

    def setup(self) -> None:
        """Wait until all workers are ready; learners take back what the newest checkpoint holds."""
        resume = self.state.checkpoint.actor if self.state.checkpoint else None
        init_method = self.actor.call("rendezvous", Path(self._meeting.name))[0]
        with Progress("starting workers", total=2, unit="groups") as bar:
            self.epoch = self.actor.call("setup", init_method, resume)[0]
            bar.advance()
            attach_envs(self.workers)
            bar.advance()
        self.actor.call("begin_task", self.task)
        if resume:
            log.info("resuming at epoch %d of %d from %s", self.epoch, self.config.runner.max_epochs, resume)

    def close(self) -> None:
        """Let go of the learners, so that another run can have the workers."""
        self._meanwhile.shutdown()
        self._checkpoints.close()
        self.actor.call("close")
        self._meeting.cleanup()

    def run(self) -> None:
        """Evaluate the start, train up to ``max_epochs``, evaluate what was learnt."""
        runner = self.config.runner
        missing = self.state.missing_base
        if self.state.learnt_before:  # no row of the success matrix
            missing = missing[:1] if missing[:1] == (self.config.env.suite,) else ()
        if runner.eval_before and missing and self.epoch == 0:
            row = BASE_ROW if not self.state.learnt_before else None
            self.evaluate(missing, row=row, label="evaluation before")
        while self.epoch < runner.max_epochs:
            self.train_epoch()
        if runner.eval_after and self.state.missing_after:
            row = task_name(self.state.task_ids)
            self.evaluate(self.state.missing_after, row=row, label=f"evaluation after {row}")
        self._write_trace()
        self.logger.close()

    def train_epoch(self) -> None:
        """One epoch: sync weights, collect, update, save, log. It lasts from the end of the one before, whose metrics
        are logged meanwhile, so that epochs add up to the run. Its checkpoint is written while the next one plays."""
        started = self._epoch_ended or time.monotonic()
        metrics = {"time/log": time.monotonic() - started}
        rollouts = self._rollouts(metrics)
        batches = rollouts.batches if rollouts else ()
        with _timed(metrics, "time/save"):
            self._checkpoints.finish()
        last = self.epoch + 1 == self.config.runner.max_epochs
        with _timed(metrics, "time/update"):
            metrics |= self.update(batches, keep=last)
        self.epoch += 1
        if last:
            with _timed(metrics, "time/end_task"):
                self.actor.call("end_task", self.task)
        with _timed(metrics, "time/save"):
            self._save(last)
        interval = self.config.runner.val_check_interval
        if interval > 0 and self.epoch % interval == 0:
            with _timed(metrics, "time/evaluate"):
                metrics |= self.validate()
        self._epoch_ended = time.monotonic()
        metrics["time/epoch"] = self._epoch_ended - started
        if rollouts:
            metrics |= rollouts.metrics()
            collecting = max(metrics["time/rollout"], rollouts.inference_s + rollouts.waiting_s)
            metrics["rollout/steps_per_second"] = metrics["rollout/num_steps"] / collecting
        with RECORDER.span("log"):
            self.logger.log(metrics, self.epoch)
        self._write_trace()
        log.info("epoch %d/%d: %s", self.epoch, self.config.runner.max_epochs, _summary(metrics))

    def _save(self, last: bool) -> None:
        """Begin a checkpoint where one is due, and wait for the last, which the run's evaluations name."""
        if last:
            self._checkpoints.begin(self.epoch)
            self._checkpoints.finish()
        elif self.epoch % self.config.runner.save_interval == 0:
            self._weights = self.actor.submit("weights")  # before the learners are busy saving
            self._checkpoints.begin(self.epoch)

    def _rollouts(self, metrics: dict[str, float]) -> Collected | None:
        """This epoch's experience; where it may be, the next epoch's is played from now on, with the weights that the
        update starts from. None: the method does not collect."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            with _timed(metrics, "time/sync_weights"):
                self.sync_weights()
            if not self._collects:
                return None
        with _timed(metrics, "time/rollout"):
            rollouts = self.collect(self.epoch) if ahead is None else ahead.result()
        if self._may_collect_ahead():
            if ahead is not None:
                with _timed(metrics, "time/sync_weights"):
                    self.sync_weights()
            self._ahead = self._meanwhile.submit(self.collect, self.epoch + 1)
        return rollouts

    def _may_collect_ahead(self) -> bool:
        """Not across a checkpoint, after which a resumed run has no older weights, nor where inference is needed."""
        runner, following = self.config.runner, self.epoch + 1
        is_evaluated = runner.val_check_interval > 0 and following % runner.val_check_interval == 0
        is_boundary = following == runner.max_epochs or following % runner.save_interval == 0 or is_evaluated
        return self.config.algorithm.max_policy_lag > 0 and not is_boundary

    def _write_trace(self) -> None:
        """Fetch what all processes did since the last time; of those that play ahead it is fetched later."""
        if self._trace is None:
            return
        spans = {"driver": RECORDER.take()}
        players = () if self._ahead else (self.workers.rollout, self.workers.env)
        for group in (self.actor, *players):
            spans |= {f"{group.name} {index}": own for index, own in enumerate(group.call("take_spans"))}
        self._trace.add(spans)

    def sync_weights(self) -> None:
        """Trainable tensors go from the learners to inference through the object store."""
        weights, self._weights = self._weights or self.actor.submit("weights"), None
        self.actor.finish(weights)
        self.workers.rollout.tell("load_weights", weights[0], self.epoch)

    def collect(self, epoch: int) -> Collected:
        """Groups of rollouts from the initial states that an epoch draws; with dynamic sampling, rounds of them until
        enough groups carry a signal (DAPO, arXiv:2503.14476)."""
        algorithm = self.config.algorithm
        plans = training_plans(
            suite=self.config.env.suite,
            task_ids=self.state.task_ids,
            init_states=init_states(self.config.env, "train", self.state.task_ids),
            num_groups=episodes_per_epoch(self.config) // algorithm.group_size,
            group_size=algorithm.group_size,
            seed=self.config.runner.seed,
            epoch=epoch,
        )
        num_envs = algorithm.num_group_envs
        a_round, wanted = num_envs * algorithm.group_size, num_envs * algorithm.rollout_epoch
        done = a_round * algorithm.rollout_epoch
        collected = self._play(plans[:done], epoch)
        bounds = algorithm.rewards_lower_bound, algorithm.rewards_upper_bound
        while done < len(plans) and collected.num_groups_within(*bounds) < wanted:
            collected = collected.then(self._play(plans[done : done + a_round], epoch))
            done += a_round
        return collected

    def _play(self, plans: Sequence[EpisodePlan], epoch: int) -> Collected:
        request = CollectRequest(
            tuple(plans),
            self.config.env.train,
            temperature=self.config.algorithm.sampling_params.temperature_train,
            stream=(self.config.runner.seed, epoch),
            keep_samples=True,
        )
        return collect(self.workers, request, label=f"epoch {epoch + 1}/{self.config.runner.max_epochs} rollouts")

    def update(self, batches: "Sequence[ray.ObjectRef[Any]]", *, keep: bool) -> dict[str, float]:
        """One epoch of policy updates on all ranks; no ``batches``: from what the method has. keep: learners keep the
        experience for the end of the task."""
        seed = self.config.runner.seed + self.epoch
        arguments = [(batches, seed, self.epoch, keep)] * len(self.actor)
        with Progress(f"epoch {self.epoch + 1}/{self.config.runner.max_epochs} update", total=100, unit="%") as bar:
            metrics: list[dict[str, float]] = self.actor.call_each(
                "update", arguments, show=lambda fractions: bar.reach(int(100 * min(fractions)))
            )
            bar.reach(100)
        return metrics[0]

    def validate(self) -> dict[str, float]:
        """Evaluate the tasks that are trained, as they are learnt by now."""
        self.sync_weights()
        tasks, folder, label = self.state.task_ids, self.state.folder, f"evaluation at epoch {self.epoch}"
        return evaluate(self.workers, self.config, task_ids=tasks, label=label, folder=folder).metrics()

    @traced("evaluate")
    def evaluate(self, suites: Sequence[str], *, row: str | None, label: str) -> None:
        """Evaluate all tasks of some suites; ``row`` names the row of the success matrix that the results become."""
        self.sync_weights()
        policy = None if row is None else self._policy(row)
        folder = self.state.folder
        metrics = evaluate_suites(
            self.workers, self.config, suites, policy=policy, label=label, folder=folder, asset_kind=self.asset_kind
        )
        self.logger.log(metrics, self.epoch)

    def _policy(self, row: str) -> EvaluatedPolicy:
        """The policy as it is now, or the base model."""
        if row == BASE_ROW:
            return base_policy(self.config, learnt_suite=self.config.env.suite)
        checkpoint = Checkpoint.at(self.state.folder, self.epoch)
        return trained_policy(self.config, lineage_of(self.config, self.state), checkpoint.short_name)


@contextmanager
def _timed(metrics: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    with RECORDER.span(name.removeprefix("time/")):
        yield
    metrics[name] = metrics.get(name, 0.0) + time.monotonic() - started


def _summary(metrics: Mapping[str, float]) -> str:
    shown = {
        "rollout/success_rate": "success",
        "train/loss/policy": "loss",
        "train/approx_kl": "kl",
        "train/entropy": "entropy",
        "train/grad_norm": "grad",
        "time/rollout": "rollout s",
        "time/update": "update s",
    }
    return ", ".join(f"{label} {metrics[name]:.4g}" for name, label in shown.items() if name in metrics)
