"""Every configuration key: its type, its default and what it means.

Values come from YAML groups under ``examples/embodiment/config``, composed by Hydra; a key that is not declared here is
an error at start-up. ``null`` keys may be given on the command line with or without a leading ``+``. Marks beside a key
say what it may be (``validate.py`` checks it) and whether results depend on it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from math import isfinite
from typing import Any

# Marks of keys that two runs may have different values of and still be compared; a marked group is marked as a whole.
FREE = {"scope": "free"}  # how long, how often, on what machine, where to
OWN = {"scope": "own"}  # in which the tasks and seeds of one experiment differ
NAME = {"scope": "name"}  # tell methods apart, and tables name them
# Marks of how values are compared: what is left open (null) becomes what is recorded of the policy's training; folders
# may be moved together, so that only so many parts of their paths' ends must agree.
AS_TRAINED = {"as_trained": True}
MODEL_FOLDER = {"compared_parts": 1}
ADAPTER_FOLDER = {"compared_parts": 4}  # task_0_seed1234/checkpoints/global_step_10/actor

RANDOM_ACTION = "random_action"
BY_MEMORY = -1
"""An ``actor.micro_batch_size`` that is left to the memory of a GPU."""
PICTURE_PATHS = ("rl", "oft", "oft_center_crop")
ATTENTION_ROUTES = ("sdpa", "flash_attention_2", "eager")
CHECKPOINTING_POLICIES = ("full", "attention", "matmuls")


def _must(text: str, holds: Callable[[float], bool]) -> dict[str, Any]:
    """What a number must be where it is not null."""
    return {"must": text, "holds": holds}


def _one_of(*names: str) -> dict[str, Any]:
    """What a text, or each entry of a list, may be where it is not null."""
    return {"choices": names}


AT_LEAST_1 = _must("must be at least 1", lambda value: value >= 1)
NOT_NEGATIVE = _must("must not be negative", lambda value: value >= 0)
ABOVE_1 = _must("must be greater than 1, or null", lambda value: value > 1)
POSITIVE = _must("must be greater than 0", lambda value: value > 0)
POSITIVE_AND_FINITE = _must("must be greater than 0, and finite", lambda value: value > 0 and isfinite(value))
FRACTION = _must("must be between 0 and 1", lambda value: 0 <= value <= 1)
OR_BY_MEMORY = _must(
    f"must be at least 1, or {BY_MEMORY} to choose by the GPU", lambda value: value >= 1 or value == BY_MEMORY
)
STORE_SIZE = _must("must be at least 0.1, or null", lambda value: value >= 0.1)  # Ray asks for 75 MiB
PRECISION = _one_of("fp32", "bf16")
BACKENDS = _one_of("tensorboard", "wandb")


@dataclass
class LoggerConfig:
    """Where results go."""

    log_root: str = "logs"
    """Folder of all methods' results."""
    log_path: str | None = None
    """Folder of this run; null: ``<log_root>/<method>/task_<ids>_seed<seed>``."""
    method_suffix: str = ""
    """Follows the method's name in folders and results: ``algorithm=ppo`` has ``_ppo``, so that its results lie beside
    those of GRPO and not among them."""
    project_name: str = "continual-vla-rl"
    experiment_name: str | None = None
    """Name shown by W&B; null: the run folder's name."""
    logger_backends: list[str] = field(default_factory=lambda: ["tensorboard"], metadata=BACKENDS)
    """Any of ``tensorboard`` and ``wandb``; ``metrics.jsonl`` is always written."""


@dataclass
class RunnerConfig:
    """The outer loop."""

    seed: int = field(default=1234, metadata=OWN | NOT_NEGATIVE)
    max_epochs: int = field(default=10, metadata=FREE | AT_LEAST_1)
    """Rollout-and-update rounds per task."""
    save_interval: int = field(default=1, metadata=FREE | AT_LEAST_1)
    """Epochs between checkpoints; the last epoch is always saved."""
    keep_checkpoints: int | None = field(default=None, metadata=FREE)
    """How many of the newest checkpoints to keep; null keeps all."""
    eval_before: bool = field(default=False, metadata=FREE)
    """Evaluate the start of this run (row ``base`` of the success matrix when no adapter is given)."""
    eval_after: bool = field(default=False, metadata=FREE)
    """Evaluate all tasks after the last epoch."""
    val_check_interval: int = field(default=-1, metadata=FREE)
    """Epochs between evaluations of the trained tasks; -1: never."""
    trace: bool = field(default=False, metadata=FREE)
    """Write what each process does when into ``trace.json`` of the run's folder (docs/metrics.md)."""
    call_timeout_s: float = field(default=1800.0, metadata=FREE)
    """Deadline of one worker call; a call that takes longer ends the run with an error that names the worker."""
    stall_timeout_s: float = field(default=600.0, metadata=FREE | POSITIVE)
    """The same for collecting and updating, which report progress: how long there may be none."""
    max_restarts: int = field(default=3, metadata=FREE | NOT_NEGATIVE)
    """How often in a row a launcher starts a run again that dies without a new checkpoint or evaluation; errors that a
    user can mend and signals from outside end it at once. A simulator process that dies is replaced as often in an
    epoch, and as many inference workers in a collection."""
    logger: LoggerConfig = field(default_factory=LoggerConfig, metadata=FREE)


@dataclass
class NodeGroupConfig:
    """Machines of a cluster under one name."""

    label: str
    node_ranks: Any
    """Which: ``0-1``, a list, or ``all``. The head has rank 0, the others follow by address."""


@dataclass
class ClusterConfig:
    """Workers of each kind, and where they run; Ray is started locally unless ``RAY_ADDRESS`` is set."""

    component_placement: Any = None
    """Where workers run (docs/clusters.md), such as ``{"actor,env,rollout": all}`` or ``{actor: 0-3, rollout: 4-7,
    env: all}``: GPUs by number over the cluster, one for each actor and rollout worker; without any, processes. ``env``
    there says where simulators run and draw. A component may be ``{node_group: LABEL, placement: 0-7}``: numbers within
    that group, of GPUs, or of simulators where it has none. null: actor and rollout share GPUs, simulators are
    everywhere, in proportion to CPUs."""
    node_groups: list[NodeGroupConfig] = field(default_factory=list)
    """Groups of nodes for ``component_placement``: ``[{label: cpu, node_ranks: 0-1}, ...]``."""
    num_actor_workers: int = -1
    """FSDP ranks; -1: one per GPU, or one."""
    num_rollout_workers: int = -1
    """Inference workers; -1: one per GPU, or one."""
    num_env_workers: int = -1
    """Simulator processes; -1: one per CPU core, leaving one core per GPU for inference. Like the numbers above, it
    must agree with ``component_placement`` where that gives one."""
    object_store_gb: float | None = field(default=None, metadata=STORE_SIZE)
    """GiB of shared memory for Ray where we start it; null: as much as keeps an epoch's samples and the weights in
    memory. Ray begins to write them to disk when 80 % of it are full."""


@dataclass
class SamplingConfig:
    """How actions are drawn."""

    temperature_train: float = field(default=1.6, metadata=POSITIVE)
    """Softmax temperature of rollouts and of the log-probabilities trained on."""
    temperature_eval: float = field(default=1.6, metadata=NOT_NEGATIVE)
    """Softmax temperature of evaluation; 0 takes the arg max."""


@dataclass
class AlgorithmConfig:
    """Reinforcement learning."""

    adv_type: str = field(default="grpo", metadata=_one_of("grpo", "rloo", "gae", "success"))
    """Advantage estimator: ``grpo`` (an episode against its group, in units of the group's spread), ``rloo`` (against
    the others of its group, leave one out), ``gae`` (a chunk against a value head) or ``success`` (1 for all of an
    episode that succeeded, others are left out)."""
    loss_type: str = field(default="grpo", metadata=_one_of("grpo", "ppo", "sft"))
    """Loss: ``grpo`` (clipped surrogate) with ``adv_type`` ``grpo`` or ``rloo``; ``ppo`` (and a value loss) with
    ``gae``; ``sft`` (negative log-likelihood) with ``success``."""
    num_group_envs: int = field(default=8, metadata=AT_LEAST_1)
    """Groups per rollout round; each group starts from one state."""
    group_size: int = 8
    """Rollouts per group."""
    rollout_epoch: int = field(default=16, metadata=AT_LEAST_1)
    """Rollout rounds per epoch: ``num_group_envs * group_size * rollout_epoch`` episodes are collected."""
    max_rollout_epoch: int | None = field(default=None, metadata=AT_LEAST_1)
    """Dynamic sampling: further rounds until ``num_group_envs * rollout_epoch`` groups carry a signal, at most so many
    in all; null: no further ones. Needs ``filter_rewards``."""
    update_epoch: int = field(default=1, metadata=AT_LEAST_1)
    """Passes over the collected episodes."""
    normalize_advantages: bool = True
    clip_ratio_low: float = 0.2
    clip_ratio_high: float = 0.28
    clip_ratio_dual: float | None = field(default=None, metadata=ABOVE_1)
    """Dual clip: of actions that did worse than expected, the ratio that still counts, such as 3.0; null: any."""
    importance_ratio: str = field(default="token", metadata=_one_of("token", "sequence"))
    """``token``: each token's own ratio of probabilities; ``sequence``: a chunk's geometric mean (GSPO, whose
    paper clips at 3e-4 and 4e-4)."""
    max_policy_lag: int = field(default=0, metadata=_must("must be 0 or 1", lambda value: value in (0, 1)))
    """By how many epochs the weights that play may be older than those that learn. 0: an epoch is played, then learnt.
    1: the next is played while one is learnt, with the weights that the update starts from (not across a checkpoint or
    an evaluation, so that a run resumes exactly); the loss then is the decoupled one (arXiv:2505.24298)."""
    lag_weight_cap: float = field(default=5.0, metadata=POSITIVE)
    """The largest weight of a token that the policy has become likelier to sample than the older weights were."""
    loss_aggregation: str = field(default="episode", metadata=_one_of("episode", "token"))
    """``episode``: every episode weighs the same (published recipe); ``token``: every executed token does."""
    entropy_bonus: float = 0.0
    filter_rewards: bool = True
    """Drop groups whose mean return is outside the bounds below: they teach nothing."""
    rewards_lower_bound: float = 0.1
    rewards_upper_bound: float = 4.9
    gamma: float = field(default=0.99, metadata=FRACTION)
    """PPO: discount per chunk."""
    gae_lambda: float = field(default=0.95, metadata=FRACTION)
    """PPO: 0 trusts the value head after one chunk, 1 only the rewards of the episode."""
    value_clip: float = field(default=0.2, metadata=POSITIVE)
    """PPO: how far a value may move from that of the rollout before the loss stops asking for more."""
    huber_delta: float = field(default=10.0, metadata=POSITIVE)
    """PPO: error from which the value loss grows linearly."""
    sampling_params: SamplingConfig = field(default_factory=SamplingConfig)
    use_ewc: bool | None = field(default=None, metadata=FREE)  # these five say what ``method`` says then
    use_experience_replay: bool | None = field(default=None, metadata=FREE)
    bc_coeff: float | None = field(default=None, metadata=FREE)
    use_reference_logits_bc: bool | None = field(default=None, metadata=FREE)
    use_cached_bc_logits: bool | None = field(default=None, metadata=FREE)


@dataclass
class ReplayConfig:
    """Replay of expert demonstrations (methods ``er`` and ``der``)."""

    coeff: float = field(default=0.03, metadata=NOT_NEGATIVE)
    """Weight of the replay loss beside the policy loss."""
    tasks: str = field(default="all", metadata=_one_of("all", "seen"))
    """Whose demonstrations: ``all`` tasks of the suite, or those ``seen`` before the task being learnt."""
    demonstrations_per_task: int | None = field(default=1, metadata=AT_LEAST_1)
    """Demonstrations of each task; null: all there are."""
    demonstrations: str = "LIBERO/libero/datasets"
    """Folder of demonstration files, or of one folder of them per suite; relative to the repository."""
    batch_size: int | None = field(default=None, metadata=AT_LEAST_1)
    """Demonstration samples per micro-batch on one rank; null: ``actor.micro_batch_size``."""
    targets: str = field(default="nearest", metadata=_one_of("nearest", "digitize"))
    """Bins of the expert's actions (``er``): the ``nearest`` centre as in the published replay, or ``digitize`` as in
    supervised training. They differ at exactly 1, such as an open gripper, where two bins mean the same action."""
    cached_logits: bool = False
    """Read the base model's logits (``der``) from files written by compute_base_logits_embodiment.sh; false: compute
    them when they are needed."""


@dataclass
class EWCConfig:
    """Elastic weight consolidation."""

    coeff: float = field(default=1.0e6, metadata=NOT_NEGATIVE)
    """Weight of the penalty ``coeff * sum(F * (theta - theta*)**2)``."""
    fisher: str = field(default="per_sample", metadata=_one_of("per_sample", "published"))
    """``per_sample``: squares of each sample's own gradient; ``published``: squares of the gradient that accumulates
    over micro-batches, as in the published code (not a Fisher information; for comparison)."""
    num_samples: int = field(default=1024, metadata=NOT_NEGATIVE)
    """Chunk samples of a task's last rollouts that the Fisher information is estimated from; 0: all."""


@dataclass
class SIConfig:
    """Synaptic intelligence."""

    coeff: float = field(default=1.0, metadata=NOT_NEGATIVE)
    """Weight of the penalty ``coeff * sum(importance * (theta - start)**2)``."""
    damping: float = field(default=1.0e-5, metadata=POSITIVE)
    """The paper's xi: added to the square of a parameter's change over a task, by which what it gained is divided. An
    adapter's parameters change by thousandths; the paper's networks, with 0.1, by more."""


@dataclass
class SLCAConfig:
    """Learning rates per module."""

    vision: float = field(default=4.0e-6, metadata=NOT_NEGATIVE)
    llm: float = field(default=4.0e-6, metadata=NOT_NEGATIVE)
    head: float = field(default=4.0e-5, metadata=NOT_NEGATIVE)


@dataclass
class AGEMConfig:
    """Averaged gradient episodic memory."""

    memory_per_task: int = field(default=256, metadata=AT_LEAST_1)
    """Chunk samples kept of each task's successful rollouts."""
    batch_size: int = field(default=64, metadata=AT_LEAST_1)
    """Samples replayed at every optimizer step, over all ranks."""


@dataclass
class LwFConfig:
    """Distillation from the previous policy."""

    coeff: float = field(default=1.0, metadata=NOT_NEGATIVE)
    """Weight of the Kullback-Leibler divergence beside the policy loss."""


@dataclass
class KLConfig:
    """Divergence from the base model."""

    coeff: float = field(default=0.1, metadata=NOT_NEGATIVE)
    """Weight of the Kullback-Leibler divergence of the policy from the frozen base model beside the policy loss."""
    anneal_steps: int = field(default=0, metadata=NOT_NEGATIVE)
    """Optimizer steps of a task in which the weight falls to 0, by the same amount each; 0: it stays."""


@dataclass
class L2Config:
    """Pull towards the start."""

    coeff: float = field(default=0.01, metadata=NOT_NEGATIVE)
    """Weight of the penalty ``coeff * sum((theta - start)**2)``."""


@dataclass
class EMAConfig:
    """Exponential moving average of the weights."""

    decay: float = field(default=0.9, metadata=FRACTION)
    """What of the average stays when an optimizer step's weights are counted in. A task has tens of steps."""


@dataclass
class OLoRAConfig:
    """Orthogonal adapters."""

    coeff: float = field(default=1.0e-3, metadata=NOT_NEGATIVE)
    """Weight of the penalty on what the adapter's A shares with those of earlier tasks. With the paper's 0.5, its
    gradient is 70 times the policy's on the small policy, and clipping leaves little of that."""


@dataclass
class SFTConfig:
    """Supervised fine-tuning."""

    source: str = field(default="demonstrations", metadata=_one_of("demonstrations", "own"))
    """What is imitated: the expert's ``demonstrations`` of the task (``method.replay`` says which), or the policy's
    ``own`` successful episodes."""


@dataclass
class MergeConfig:
    """Weight merge."""

    coeff: float = field(default=0.8, metadata=FRACTION)
    """Factor, 0 to 1, on the adapters of earlier tasks when they are merged into the base, and on the last one in
    evaluations."""


@dataclass
class MethodConfig:
    """The continual-learning method."""

    name: str = field(default="sequential", metadata=NAME)
    """``sequential``, ``ewc``, ``si``, ``er``, ``der``, ``slca``, ``weight_merge``, ``agem``, ``lwf``, ``kl``, ``l2``,
    ``ema``, ``olora``, ``dwe``, ``sft``, or one that an installed package brings (entry points ``rlinf.methods``)."""
    label: str = field(default="", metadata=NAME)
    """Names its results (``Config.results_name``): one method may be run in several ways; empty: the method's name."""
    options: dict[str, int | float | str] = field(default_factory=dict)
    """Settings of a method without fields of its own here: ``+method.options.NAME=VALUE``."""
    ewc: EWCConfig = field(default_factory=EWCConfig)
    si: SIConfig = field(default_factory=SIConfig)
    slca: SLCAConfig = field(default_factory=SLCAConfig)
    agem: AGEMConfig = field(default_factory=AGEMConfig)
    lwf: LwFConfig = field(default_factory=LwFConfig)
    kl: KLConfig = field(default_factory=KLConfig)
    l2: L2Config = field(default_factory=L2Config)
    ema: EMAConfig = field(default_factory=EMAConfig)
    olora: OLoRAConfig = field(default_factory=OLoRAConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)


@dataclass
class EnvSplitConfig:
    """Simulation for training or for evaluation."""

    max_episode_steps: int = field(default=512, metadata=AT_LEAST_1)
    """Actions after the idle steps until an episode is cut off."""
    ignore_terminations: bool = False
    """Go on after success until the step limit (then ``success_at_end`` can differ from ``success_once``)."""
    temperatures: list[float] = field(default_factory=list, metadata=FREE | NOT_NEGATIVE)
    """Evaluation: play the same episodes at each of these, such as ``[1.0,0.0]``, sampled and greedy; the ledger has a
    line for each. Empty: at ``algorithm.sampling_params.temperature_eval``; training ignores it."""
    episodes_per_task: int = 0
    """Evaluation: episodes per task, from its initial states in order; training ignores it."""
    init_states: str | None = None
    """Of each task's initial states those to play, such as ``0-24`` or ``25-49,3``; null: all."""


@dataclass
class EnvConfig:
    """The simulator."""

    simulator: str = "libero"
    suite: str = "libero_spatial"
    fixed_task_ids: list[int] | None = field(default=None, metadata=OWN)
    """Tasks to train on; null means all."""
    first_task: int = 0
    """The task that sequences of the published experiments start with: tasks before it precede no other."""
    eval_task_ids: list[int] | None = None
    """Tasks to evaluate; null means all."""
    eval_suites: list[str] = field(default_factory=list, metadata=FREE)
    """Further suites to evaluate with every row of the success matrix, with the same settings, such as LIBERO-PRO's
    ``[libero_spatial_lan,libero_spatial_object,libero_spatial_swap,libero_spatial_task]``; the matrix goes without."""
    num_envs_per_worker: int = field(default=8, metadata=FREE | AT_LEAST_1)
    """Episodes that one simulator process keeps running."""
    pipeline_stages: int = field(default=2, metadata=FREE | AT_LEAST_1)
    """Env groups per simulator process: while one is simulated the policy looks at another."""
    cameras: list[str] = field(default_factory=lambda: ["agentview"])
    """What the policy sees, in its order: ``agentview``, and ``robot0_eye_in_hand`` or, as fine-tuning calls it,
    ``eye_in_hand``. As the policy was trained."""
    image_size: int = 256
    look: str = field(default="fast", metadata=_one_of("fast", "official"))
    """``fast``: no multi-sampling and reflections; ``official``: the pixels of stock LIBERO."""
    num_idle_steps: int = 10
    """Idle actions after a reset, while objects fall into place."""
    reward_coef: float = 5.0
    """Reward for reaching success."""
    call_timeout_s: float = field(default=300.0, metadata=FREE | POSITIVE)
    """A simulator process that has not answered a call (at most the building of its scenes, or a chunk of actions in
    each) after so long is replaced."""
    use_rel_reward: bool = True
    """Reward changes of success (``+reward_coef`` when reached, minus that when lost) instead of every step in it."""
    video_episodes: int = field(default=0, metadata=FREE)
    """Evaluation: episodes per evaluation that are filmed."""
    train: EnvSplitConfig = field(default_factory=EnvSplitConfig)
    eval: EnvSplitConfig = field(default_factory=lambda: EnvSplitConfig(episodes_per_task=50))


@dataclass
class RolloutConfig:
    """Inference."""

    worker: str = field(default="policy", metadata=_one_of("policy", RANDOM_ACTION))
    """Who acts: the ``policy``, or ``random_action`` (uniformly random actions, evaluation only; reads no model)."""
    model_dir: str = field(default="model/Openvla-oft-SFT-libero-spatial-traj1", metadata=MODEL_FOLDER)
    """Base checkpoint of the rollout policy; must be the actor's."""
    precision: str = field(default="bf16", metadata=PRECISION)
    """``fp32`` or ``bf16``."""
    max_batch: int = field(default=64, metadata=FREE | AT_LEAST_1)
    """Largest inference batch."""
    num_threads: int | None = field(default=None, metadata=FREE)
    """CPU threads of one rollout worker; null: half of the cores, since simulators run at the same time."""
    merge_adapter: bool = False
    """Count the adapter into the weights while acting: a third less work for a small model; needs ``precision=fp32``,
    since bf16 would round the adapter away, and a second copy of the weights."""
    cuda_graphs: bool = False
    """On a GPU, replay the forward pass of ``openvla_oft`` as a CUDA graph: for small models, whose time goes into
    launching kernels."""


@dataclass
class TokenizerConfig:
    """The tokenizer."""

    tokenizer_model: str | None = field(default=None, metadata=MODEL_FOLDER)
    """Folder of the tokenizer; null: the model's."""


@dataclass
class OptimConfig:
    """AdamW (arXiv:1711.05101)."""

    lr: float = field(default=2.0e-5, metadata=POSITIVE_AND_FINITE)
    lr_warmup_steps: int = field(default=0, metadata=NOT_NEGATIVE)
    """Optimizer steps of the policy at the start of a run over which its learning rates rise to their full size: Adam's
    first steps are as long as the rate whatever the gradients are."""
    value_lr: float = field(default=3.0e-3, metadata=POSITIVE_AND_FINITE)
    """Learning rate of the value head (PPO)."""
    critic_warmup_steps: int = field(default=0, metadata=NOT_NEGATIVE)
    """Optimizer steps at the start of a run that train the value head alone (PPO)."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_eps: float = 1.0e-5
    weight_decay: float = 0.01
    clip_grad: float = 1.0
    """Largest gradient norm, of the policy and of a critic each."""


@dataclass
class ModelConfig:
    """The trained policy."""

    model_name: str = "openvla_oft"
    """A row of the table of policies: ``openvla_oft``, ``openvla`` (autoregressive) or ``simple_cnn``."""
    is_lora: bool = True
    """Train an adapter and leave the rest as it is; ``simple_cnn`` has none and needs false."""
    lora_rank: int = field(default=32, metadata=AT_LEAST_1)
    lora_alpha: int | None = None
    """LoRA scale is ``lora_alpha / lora_rank``; null: alpha = rank."""
    lora_path: str | None = field(default=None, metadata=OWN | ADAPTER_FOLDER)
    """Folder of trained weights to start from: an adapter, or ``model.pt`` of a policy without one; null: a fresh
    adapter, or the base checkpoint's own weights."""
    previous_lora_paths: list[str] = field(default_factory=list, metadata=OWN | ADAPTER_FOLDER)
    """Adapter folders of earlier tasks, merged into the base model when it is loaded."""
    previous_lora_coeff: float | None = field(default=None, metadata=FRACTION)
    """Factor, 0 to 1, on those; null: ``method.merge.coeff`` for weight merge, else 1."""
    task_lora_paths: list[str] | None = field(default=None, metadata=OWN | ADAPTER_FOLDER)
    """Adapter folders of earlier tasks, each of which plays its own tasks in evaluations (``method=dwe``); null: one
    adapter plays all."""
    lora_scale: float | None = field(default=None, metadata=FRACTION)
    """Evaluation: factor on the adapter (training always uses 1); null: ``method.merge.coeff`` for weight merge, else
    1."""
    unnorm_key: str | None = field(default=None, metadata=AS_TRAINED)
    """Key of the action statistics; null: the suite's name, or the one that the policy was trained with."""
    num_action_chunks: int = 8
    """Actions per chunk; ``openvla`` decodes 1."""
    max_prompt_length: int | None = None
    """Largest number of prompt tokens; null: the checkpoint's own, at least 128. Shorter prompts take less."""
    picture_path: str | None = field(default=None, metadata=AS_TRAINED | _one_of(*PICTURE_PATHS))
    """How pictures come to the policy's size: ``rl`` (bicubic), or as the OFT repository does it, ``oft`` (JPEG, then
    Lanczos) or ``oft_center_crop`` (for policies trained with random crops). null: as the policy was trained, ``rl``
    where nothing is recorded of that."""
    attn_implementation: str | None = field(default=None, metadata=FREE | _one_of(*ATTENTION_ROUTES))
    """Attention of the language model: ``sdpa``, ``flash_attention_2`` or ``eager``; null: flash-attention where the
    package ``flash-attn`` is installed, on a GPU and in bf16, else ``sdpa``."""
    compile_blocks: bool | None = field(default=False, metadata=FREE)
    """Compile the transformer blocks (``torch.compile``), in rollouts and in updates: a minute at the first start, then
    faster steps of a large policy. null: where there is a GPU."""
    gradient_checkpointing: bool | None = field(default=False, metadata=FREE)
    """In updates, compute activations again instead of keeping them: less memory, more time. null: where a GPU has too
    little memory for the 7B without."""
    gradient_checkpointing_policy: str = field(default="full", metadata=FREE | _one_of(*CHECKPOINTING_POLICIES))
    """What a checkpointed block keeps: ``full`` its input only, ``attention`` also what attention gave, ``matmuls``
    also the large matrix products."""
    gradient_checkpointing_every: int = field(default=1, metadata=FREE | AT_LEAST_1)
    """Checkpoint every k-th block only."""


@dataclass
class FSDPConfig:
    """Sharding of the learner (FSDP2)."""

    param_dtype: str = field(default="fp32", metadata=PRECISION)
    """Precision of forward and backward: ``fp32`` or ``bf16``; the adapter and the optimizer stay fp32."""
    shard_frozen: bool | None = field(default=False, metadata=FREE)
    """Shard the weights that are not trained, too: least memory, but every pass collects the whole model (twice, with
    ``reshard_after_forward``). False: every rank holds them (15 GB for the 7B in bf16). null: where a GPU has too
    little memory for that."""
    reshard_after_forward: bool = field(default=True, metadata=FREE)
    """Let go of collected weights after the forward pass; the backward pass collects them again."""


@dataclass
class ActorConfig:
    """The learner."""

    checkpoint_load_path: str = field(default="model/Openvla-oft-SFT-libero-spatial-traj1", metadata=MODEL_FOLDER)
    """Base checkpoint, a Hugging Face folder."""
    global_batch_size: int = field(default=8192, metadata=AT_LEAST_1)
    """Chunk samples per optimizer step, over all ranks."""
    micro_batch_size: int = field(default=32, metadata=FREE | OR_BY_MEMORY)
    """Chunk samples per forward pass on one rank; -1: as a GPU's memory allows for the 7B."""
    num_threads: int | None = field(default=None, metadata=FREE)
    """CPU threads of one rank; null: all cores, divided among the ranks."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    fsdp: FSDPConfig = field(default_factory=FSDPConfig)


@dataclass
class Config:
    """A whole experiment."""

    runner: RunnerConfig = field(default_factory=RunnerConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig, metadata=FREE)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)

    @property
    def results_name(self) -> str:
        """Folder of the results, and what the ledger and adapters call the method."""
        return f"{self.method.label or self.method.name}{self.runner.logger.method_suffix}"


def walk(config: Any, prefix: str = "") -> Iterator[tuple[str, "Field[Any]", Any]]:
    """Every key of a configuration, and every group: its dotted name, its field and its value."""
    for one in fields(config):
        value = getattr(config, one.name)
        yield prefix + one.name, one, value
        if is_dataclass(value):
            yield from walk(value, f"{prefix}{one.name}.")


def with_settings(config: Config, settings: Mapping[str, object]) -> Config:
    """The configuration with other values at some keys, which overrides would give it, too."""

    def changed(node: Any, names: list[str], value: object) -> Any:
        name, *inner = names
        return replace(node, **{name: changed(getattr(node, name), inner, value) if inner else value})

    for key, value in settings.items():
        config = changed(config, key.split("."), list(value) if isinstance(value, tuple) else value)
    return config
