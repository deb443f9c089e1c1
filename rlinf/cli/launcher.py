"""Read a launcher's command line: the positional arguments it declares, options, and Hydra overrides.

A launcher is one line of bash, ``launch SIGNATURE "$@" -- SETTING...``, and all of it arrives here. The signature is
the documented one and doubles as the usage message::

    TASK_ID_OR_RANGE [ER_COEFF=0.03] [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]

Settings after ``--`` are fixed by the launcher: ``action=``, ``order=`` and ``config=`` (see ``Arguments``), and
``hint=``, which is added to the usage message; every other one, such as ``method=er``, is a Hydra override in which
``{ER_COEFF}`` stands for that positional argument and ``{LR_STRING[0]}`` for the first number of a list. An override
whose argument is not given is left out.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlinf.cli.console import REPOSITORY, UsageError

DEFAULT_CONFIG = "crl_experiment/libero_spatial_grpo_openvlaoft_spatial"
DRY_RUN = "--dry-run"
RESUME = "--resume"  # what is done anyway; for those who want to say it
HELP = ("-h", "--help")
HINT = "hint="

_PARAMETER = re.compile(r"\[(?P<optional>\w+)(?:=(?P<default>[^\]]*))?\]|(?P<required>\w+)(?:\|\w+)?")
_OVERRIDE = re.compile(r"(\+{0,2}[A-Za-z_][\w.@:-]*=.*)|(~[A-Za-z_][\w.@]*(=.*)?)", re.DOTALL)
_PLACEHOLDER = re.compile(r"\{(\w+)(?:\[(\d)\])?\}")


@dataclass(frozen=True)
class Arguments:
    """A launcher's command line, read, with what the launcher fixes."""

    usage: str
    action: str  # ``sequence`` of training runs, ``evaluate`` a checkpoint, or ``train`` once
    order: str  # tasks: ``range``, FIRST,LAST in order; ``listed`` exactly as given; ``joint``: all in one run
    config: str
    values: Mapping[str, str]  # positional arguments by name; "" where not given and without default
    overrides: tuple[str, ...]  # Hydra's: the launcher's own, then the user's, which count
    is_dry_run: bool
    is_help: bool

    def value(self, *names: str) -> str:
        """The first of these arguments that the launcher declares; "" when it was not given."""
        return next((self.values[name] for name in names if name in self.values), "")


def read_arguments(argv: Sequence[str]) -> Arguments:
    """Read ``SCRIPT SIGNATURE ARGUMENT... -- SETTING...``, the words that ``launch`` hands over."""
    if len(argv) < 3 or "--" not in argv:
        raise UsageError("this command is started by the launchers in examples/crl_experiment (see launch.sh)")
    script, signature = argv[:2]
    split = len(argv) - 1 - list(reversed(argv)).index("--")
    given, fixed = argv[2:split], argv[split + 1 :]
    usage = f"usage: bash {script} {signature} [{RESUME}] [{DRY_RUN}] [KEY=VALUE ...]"
    usage += "".join(f"\n{word.removeprefix(HINT)}" for word in fixed if word.startswith(HINT))
    fixed = [word for word in fixed if not word.startswith(HINT)]
    parameters = parse_signature(signature)

    user_overrides = tuple(word for word in given if _is_override(word))
    flags = [word for word in given if word.startswith("-") and not re.fullmatch(r"-\d.*", word)]
    positional = [word for word in given if word not in user_overrides and word not in flags]
    is_help = any(flag in HELP for flag in flags)
    unknown = [flag for flag in flags if flag not in (DRY_RUN, RESUME, *HELP)]
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}; expected {RESUME} or {DRY_RUN}\n{usage}")
    if len(positional) > len(parameters):
        extra = positional[len(parameters)]
        raise UsageError(f"{len(parameters)} arguments are expected, {len(positional)} given ({extra!r})\n{usage}")

    values = {}
    given_texts = [*map(str.strip, positional), *[""] * len(parameters)]
    for (name, default), text in zip(parameters.items(), given_texts, strict=False):
        if not text and default is None and not is_help:
            raise UsageError(f"{name} is missing\n{usage}")
        values[name] = text or default or ""
    if (rates := values.get("LR_STRING")) and rates.count(",") != 2:
        raise UsageError(
            f'LR_STRING must be three learning rates "vision,llm,head" such as "2e-6,2e-6,1e-5", got {rates!r}\n{usage}'
        )
    settings = {"action": "sequence", "order": "range", "config": DEFAULT_CONFIG}
    settings |= {key: value for key, _, value in (word.partition("=") for word in fixed) if key in settings}
    own = [_filled(word, values) for word in fixed if word.partition("=")[0] not in settings]
    return Arguments(
        usage=usage,
        **settings,
        values=values,
        overrides=(*filter(None, own), *user_overrides),
        is_dry_run=DRY_RUN in flags,
        is_help=is_help,
    )


def _is_override(word: str) -> bool:
    """Whether a word sets a key; ``epoch=9/actor`` may be a path, where there is one."""
    is_path = any(os.access(path, os.F_OK) for path in (REPOSITORY / word, word))  # of any length, unlike Path.exists
    return bool(_OVERRIDE.fullmatch(word)) and not is_path


def parse_signature(signature: str) -> dict[str, str | None]:
    """``"TASK [COEFF=0.03]"``: arguments in order with their defaults; None: it must be given, "": it has none."""
    parameters: dict[str, str | None] = {}
    for word in signature.split():
        match = _PARAMETER.fullmatch(word)
        assert match, f"cannot read {word!r} in the launcher's signature {signature!r}"
        if match["required"]:
            parameters[match["required"]] = None
        else:
            parameters[match["optional"]] = match["default"] or ""
    return parameters


def _filled(override: str, values: Mapping[str, str]) -> str:
    """A launcher's override with arguments filled in; empty where one of them is not given."""
    if not all(values[name] for name, _ in _PLACEHOLDER.findall(override)):
        return ""

    def part(match: re.Match[str]) -> str:
        text = values[match[1]]
        return text.split(",")[int(match[2])].strip() if match[2] else text

    return _PLACEHOLDER.sub(part, override)


def parse_tasks(arguments: Arguments, *, num_tasks: int) -> tuple[tuple[int, ...], ...]:
    """The tasks of each training run of a sequence, in order."""
    text, is_range = arguments.value("TASK_ID_OR_RANGE", "TASK_IDS"), arguments.order == "range"
    ids = parse_task_ids(text, is_range=is_range, num_tasks=num_tasks)
    return (tuple(sorted(ids)),) if arguments.order == "joint" else tuple((task_id,) for task_id in ids)


def parse_task_ids(text: str, *, is_range: bool, num_tasks: int) -> tuple[int, ...]:
    """``"4,0,2"`` are exactly these tasks in this order; of a range ``"3"`` is task 3, ``"0,4"`` are tasks 0 to 4."""
    one_or_two = 'one task id such as "0", or a first and a last one such as "0,4" for tasks 0 to 4'
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("-?[0-9]+", part) for part in parts):
        expected = one_or_two if is_range else 'task ids such as "0,2,4"'
        raise UsageError(f"cannot read the tasks {text!r}; expected {expected}")
    ids = tuple(map(int, parts))
    if outside := [task_id for task_id in ids if not 0 <= task_id < num_tasks]:
        raise UsageError(f"task {outside[0]} (in {text!r}) is out of range: the suite has tasks 0 to {num_tasks - 1}")
    first, last = ids[0], ids[-1]
    if is_range and len(ids) > 2:
        raise UsageError(f"TASK_ID_OR_RANGE={text!r} has {len(ids)} numbers; expected {one_or_two}")
    if is_range and first > last:
        raise UsageError(
            f'TASK_ID_OR_RANGE={text!r} is reversed; write "{last},{first}" for tasks {last} to {first}, in that order'
        )
    if not is_range and len(set(ids)) < len(ids):
        raise UsageError(f"TASK_IDS={text!r} names a task twice; every task is learnt once")
    return tuple(range(first, last + 1)) if is_range else ids


def parse_count(text: str, *, name: str, minimum: int) -> int:
    """A whole number of at least ``minimum``."""
    try:
        number = int(text)
    except ValueError:
        raise UsageError(f"{name} must be a whole number, got {text!r}") from None
    if number < minimum:
        raise UsageError(f"{name} must be at least {minimum}, got {number}")
    return number
