"""Command lines whose plans are held: every launcher, with what it is usually given.

``{work}`` is the folder of the caller, in which there are checkpoints of earlier runs (``CHECKPOINTS``).
"""

TINY = "crl_experiment/libero_spatial_grpo_tiny"
OBJECT = "crl_experiment/libero_object_grpo_tiny"
LONG = "crl_experiment/libero_10_grpo_tiny"
CNN = "crl_experiment/libero_spatial_grpo_simple_cnn"
OFT = "crl_experiment/libero_spatial_grpo_openvlaoft_spatial"

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
CHECKPOINTS = {
    "logs/sequential/task_0_seed1234": (ADAPTER, OFT),
    "logs/sequential/task_0": (ADAPTER, OFT),
    "logs/sequential/task_1_seed7": (ADAPTER, TINY),
    "logs/simple_cnn/task_0_seed1234": (("model.pt",), CNN),
}
"""Folder -> the files that make it a checkpoint, and the configuration it was trained with; saved at epochs 10, 20."""

_CRL = {
    "run_embodiment_sequential": [
        ["0,4"],
        ["9,11"],
        ["0,1", "", "", TINY, "3"],
        ["1", "logs/sequential/task_0_seed1234", "15", "", "42"],
        ["1", "logs/sequential/task_0_seed1234/checkpoints/global_step_10/actor", "", TINY],
        ["0,1", "", "2", "crl_experiment/libero_spatial_ppo_tiny"],
        ["0,1", "algorithm.use_experience_replay=True", "algorithm.bc_coeff=0.03"],
        ["0", "+algorithm.use_ewc=True"],
        ["0,1", "", "2", TINY, "method=agem", "env.eval_suites=[libero_spatial_swap]"],
        ["0,1", "", "2", TINY, "5", "method=lwf", "actor.optim.lr=5e-4", "runner.eval_after=false"],
    ],
    "run_embodiment_sequential_reorder": [
        ["4,0", "reorder_v1", "3", TINY, "7"],
        ["2", "v2", "", TINY, "", "logs/sequential/task_0_seed1234"],
    ],
    "run_embodiment_ewc": [["0,1", "", "3", TINY, "2"], ["0", "method.ewc.coeff=10"]],
    "run_embodiment_er": [["0", "0.03"], ["0,1", "0.1", "", "", TINY]],
    "run_embodiment_der": [["0,1"], ["2,3", "0.03", "logs/sequential/task_0_seed1234", "2", TINY, "9"]],
    "run_embodiment_weight_merge": [
        ["0,2", "0.8", TINY],
        ["5,6", "0.5", OBJECT, "4", "runner.max_epochs=2"],
    ],
    "run_embodiment_lwf": [["0,1", "", "", TINY]],
    "run_embodiment_agem": [["0,1", "", "", TINY]],
    "run_embodiment_kl": [["0,1", "", "", TINY, "3", "method.kl.coeff=0.2"]],
    "run_embodiment_si": [["0,1", "", "", TINY, "", "method.si.coeff=0.5"]],
    "run_embodiment_l2": [["0,1", "", "", TINY]],
    "run_embodiment_ema": [["0,1", "", "", TINY]],
    "run_embodiment_olora": [["0,1", "", "", TINY]],
    "run_embodiment_dwe": [["0,2", "", "", TINY]],
    "run_embodiment_sft": [
        ["0,1", "", "", TINY],
        ["0", "", "", TINY, "", "method.sft.source=own", "method.label=sft_own"],
    ],
    "run_embodiment_slca": [["1,2", "2e-6,2e-6,1e-5"], ["0", "", TINY], ["0", "1e-6, 2e-6 ,3e-5", LONG, "8"]],
    "run_embodiment_multitask": [["0,2,4"], ["0,2,4", "", "5", TINY, "6"]],
    "run_embodiment_simple_cnn": [["0"], ["0,1", "logs/simple_cnn/task_0_seed1234", "4", CNN, "3"]],
    "eval_embodiment": [
        ["base"],
        ["base", "", TINY, "env.suite=libero_spatial_swap"],
        ["logs/sequential/task_0_seed1234", "20"],
        ["logs/sequential/task_1_seed7", "20"],
        ["logs/simple_cnn/task_0_seed1234", "10", f"{CNN}_eval"],
    ],
    "eval_embodiment_lora_scale": [
        ["{work}/logs/sequential/task_0", "0.5"],
        ["logs/sequential/task_0_seed1234", "0.5", "", "20", TINY],
    ],
}
# Where results go when nothing is said.
_WITHOUT_A_ROOT = {
    "crl_experiment/run_embodiment_sequential": [["0,1", "", "", OBJECT], ["3", "", "", LONG, "2"]],
    "crl_experiment/run_embodiment_sequential_reorder": [["4,2"]],
    "crl_experiment/eval_embodiment": [["base"]],
}
_WITHOUT_A_PLAN = {
    "embodiment/run_embodiment": [[], [TINY, "runner.seed=3", "env.fixed_task_ids=[0,1]"]],
    "embodiment/compute_base_logits_embodiment": [
        [TINY, "method.replay.demonstrations={work}/demonstrations"],
    ],
    "supervised/make_small_policy": [
        ["", "", "", "{work}/made"],
        ["model/mine", "3", "0.5", "{work}/made", "libero_goal,libero_10"],
    ],
    "supervised/make_pretrained_policy": [["", "", "", "{work}/made"]],
    "supervised/make_few_shot_policy": [["model/base", "libero_goal", "3", "", "", "{work}/made"]],
    "supervised/make_simple_cnn": [["model/cnn", "5", "100", "{work}/made"], ["", "", "", "{work}/made"]],
}

LAUNCHES = [
    *(
        (f"crl_experiment/{name}.sh", [*words, "runner.logger.log_root={work}/runs"])
        for name, calls in _CRL.items()
        for words in calls
    ),
    *((f"{name}.sh", words) for name, calls in (_WITHOUT_A_ROOT | _WITHOUT_A_PLAN).items() for words in calls),
]
