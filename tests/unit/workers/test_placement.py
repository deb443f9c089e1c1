"""Which node and GPU every worker gets."""

import re
from dataclasses import replace

import pytest

from rlinf.config import ConfigError, load_config, validate
from rlinf.config.placement import Node, place_workers, spread
from rlinf.config.schema import ClusterConfig, NodeGroupConfig
from rlinf.scheduler.cluster import Resources
from rlinf.workers.launch import check_workers
from tests.sequences import TINY

LAPTOP = [(8, 0)]
TWO = [(2, 0), (6, 0)]
GPUS = [(16, 4), (16, 4)]
MIXED = [(8, 2), (4, 0), (12, 0)]
ALL = {"actor,env,rollout": "all"}
GROUPS = [NodeGroupConfig("gpu", 0), NodeGroupConfig("cpu", "1-2"), NodeGroupConfig("far", "2-7")]


def nodes(sizes):
    """Nodes with these numbers of CPUs and GPUs."""
    return [Node(rank, f"id{rank}", f"10.0.0.{rank}", *size) for rank, size in enumerate(sizes)]


def placed(sizes, placement=None, **keys):
    """Node rank and GPU of every worker."""
    config = ClusterConfig(component_placement=placement, node_groups=GROUPS, **keys)
    found = place_workers(config, nodes(sizes))
    return tuple(
        [(place.node.rank if place.node else None, place.gpu) for place in places]
        for places in (found.actor, found.rollout, found.env)
    )


def test_without_a_placement_policies_are_anywhere_and_simulators_leave_a_core_per_gpu():
    assert placed(LAPTOP) == ([(None, None)], [(None, None)], [(0, None)] * 8)
    actor, rollout, env = placed([(6, 2)])
    assert actor == rollout == [(None, 0), (None, 1)]
    assert env == [(0, 0), (0, 1), (0, 0), (0, 1)]


def test_without_a_placement_simulators_are_spread_by_cpus():
    assert placed(TWO, num_env_workers=4)[2] == [(0, None)] + [(1, None)] * 3
    assert placed(TWO)[2] == [(0, None)] * 2 + [(1, None)] * 6
    assert placed([(2, 2), (2, 2)])[2] == [(0, 0), (0, 1), (1, 0), (1, 1)], "inference workers need one each"


def test_all_components_everywhere():
    actor, rollout, env = placed(GPUS, ALL)
    assert actor == rollout == [(node, gpu) for node in range(2) for gpu in range(4)]
    assert env == [(node, number % 4) for node in range(2) for number in range(12)]
    assert placed(LAPTOP, ALL) == ([(0, None)], [(0, None)], [(0, None)] * 8)


@pytest.mark.parametrize("spelling", ["5,0-1", [5, "0-1"]])
def test_gpus_are_numbered_over_the_cluster_in_the_order_given(spelling):
    actor, rollout, env = placed(GPUS, {"actor": spelling, "rollout": 7, "env": "2,4-5"}, num_env_workers=4)
    assert actor == [(1, 1), (0, 0), (0, 1)]
    assert rollout == [(1, 3)]
    assert env == [(0, 2), (0, 2), (1, 0), (1, 1)]


def test_without_gpus_numbers_are_processes():
    placement = {"actor,rollout": "0-2", "env": "1-4"}
    actor, rollout, env = placed(TWO, placement, num_actor_workers=3, num_env_workers=4)
    assert actor == rollout == [(0, None), (0, None), (1, None)]
    assert env == [(0, None)] + [(1, None)] * 3


def test_node_groups_have_numbers_of_their_own():
    def on(placement):
        return placed(MIXED, {"actor,rollout": "0-1", "env": {"node_group": "cpu", "placement": placement}})

    assert on("all") == ([(0, 0), (0, 1)], [(0, 0), (0, 1)], [(1, None)] * 4 + [(2, None)] * 12)
    assert on("3-5")[2] == [(1, None), (2, None), (2, None)]
    swapped = {"actor,rollout": {"node_group": "gpu", "placement": 1}, "env": "all"}
    assert placed(MIXED, swapped, num_env_workers=11)[:2] == ([(0, 1)], [(0, 1)])
    assert placed(MIXED, swapped, num_env_workers=11)[2] == [(0, 0), (0, 1), (0, 0), *[(1, None)] * 2, *[(2, None)] * 6]


def test_a_head_without_cpus_has_no_simulators():
    """As KubeRay recommends."""
    assert placed([(0, 0), (2, 0)], ALL) == ([(1, None)], [(1, None)], [(1, None)] * 2)


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ("all", "component_placement=all: expected null, or a place for each component"),
        ({**ALL, "critic": 0}, "names 'critic', which is no component; expected actor, rollout, env"),
        ({"actor,env": 0, "rollout,env": 0}, "names env twice"),
        ({"actor": 0}, "says nothing of rollout and env"),
        ({}, "says nothing of actor and rollout and env"),
        (
            {"actor": "1-0", "rollout,env": 0},
            "component_placement.actor: expected numbers and ranges such as 0-3,7, given '1-0'; all",
        ),
        ({"actor": "0:0-3", "rollout,env": 0}, "given '0:0-3'; all means all of them"),
        ({"actor,rollout,env": None}, "ranges such as 0-3,7, given 'None'"),
        ({"actor": "0-9999999999", "rollout,env": 0}, "names 9999999999; expected numbers below 100000"),
        ({"actor": "0-2,1", "rollout,env": 0}, "component_placement.actor: '0-2,1' names a number twice"),
        ({"actor": {"placement": 0}, "rollout,env": 0}, "expected a place such as 0-3, or {node_group: LABEL, "),
        (
            {"actor,rollout": 0, "env": {"node_group": "robot", "placement": 0}},
            "component_placement.env: cluster.node_groups has gpu, cpu, far; expected one with the label robot",
        ),
    ],
)
def test_what_cannot_be_understood_is_refused_before_anything_is_started(placement, message):
    config = load_config(TINY)
    config = replace(config, cluster=ClusterConfig(component_placement=placement, node_groups=GROUPS))
    with pytest.raises(ConfigError, match=re.escape(message)):
        validate(config, num_tasks=10)


@pytest.mark.parametrize(
    ("sizes", "placement", "keys", "message"),
    [
        (GPUS, {"actor": "0-8", "rollout,env": 0}, {}, "actor=0-8: 8 is not there; the GPUs there: 0 to 7"),
        (
            TWO,
            {"actor,rollout": 0, "env": "0-8"},
            {},
            "env=0-8: 8 is not there; the processes there, one per CPU: 0 to 7",
        ),
        (
            MIXED,
            {"actor,rollout": {"node_group": "gpu", "placement": 2}, "env": "all"},
            {},
            "actor=2: 2 is not there; the GPUs there: 0 to 1",
        ),
        (
            MIXED,
            {"actor,rollout": 0, "env": {"node_group": "far", "placement": "all"}},
            {},
            "cluster.node_groups (far).node_ranks=2-7: 7 is not there; the nodes of the cluster: 0 to 2",
        ),
        (
            MIXED,
            {"actor": 0, "rollout": {"node_group": "cpu", "placement": 0}, "env": "all"},
            {},
            "rollout: the nodes of cpu have no GPU, but the cluster has 2",
        ),
        ([(0, 0)], ALL, {}, "actor=0: 0 is not there; the processes there, one per CPU: none"),
        (
            GPUS,
            ALL,
            {"num_actor_workers": 4},
            "cluster.num_actor_workers=4, but cluster.component_placement.actor gives 8",
        ),
        (
            MIXED,
            {"actor,rollout": 0, "env": {"node_group": "cpu", "placement": "0-3"}},
            {"num_env_workers": 5},
            "cluster.num_env_workers=5, but cluster.component_placement.env gives 4 of them a place: leave",
        ),
        (
            MIXED,
            {"actor,rollout": "0-1", "env": {"node_group": "cpu", "placement": 0}},
            {},
            "cluster.num_env_workers=1 must be at least cluster.num_rollout_workers=2",
        ),
        (
            GPUS,
            None,
            {"num_rollout_workers": 9},
            "cluster.num_rollout_workers=9 must not exceed the 8 GPUs of the cluster",
        ),
        (LAPTOP, None, {"num_env_workers": 0}, "cluster.num_env_workers=0 must be at least 1, or -1"),
    ],
)
def test_what_the_cluster_does_not_have_is_refused(sizes, placement, keys, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        placed(sizes, placement, **keys)


def test_it_can_be_given_on_the_command_line():
    words = [
        "cluster.component_placement={actor:0-1,rollout:[0,1],env:{node_group:cpu,placement:0-5}}",
        "cluster.node_groups=[{label:cpu,node_ranks:1}]",
    ]
    found = place_workers(load_config(TINY, words).cluster, nodes(MIXED[:1] + MIXED[2:]))
    assert [place.gpu for place in found.actor + found.rollout] == [0, 1, 0, 1]
    assert {place.node.rank for place in found.env} == {1}


def test_the_table_has_a_line_for_the_workers_of_a_kind_on_a_node():
    placement = {"actor": "0,2-3", "rollout": 4, "env": "all"}
    config = ClusterConfig(component_placement=placement, num_env_workers=8)
    assert place_workers(config, nodes(GPUS)).table().splitlines() == [
        "  workers    node         GPU",
        "  actor 0-2  0: 10.0.0.0  0,2-3",
        "  rollout 0  1: 10.0.0.1  0",
        "  env 0-3    0: 10.0.0.0  0-3",
        "  env 4-7    1: 10.0.0.1  0-3",
    ]
    assert "actor 0-7    any          -" in place_workers(ClusterConfig(), nodes(GPUS)).table()


def test_an_evaluation_needs_no_place_for_a_learner_and_no_batch_that_it_can_share():
    placed = ["cluster.component_placement={actor: 0-2, rollout: 3, env: all}", "actor.global_batch_size=32"]
    config, cluster = load_config(TINY, placed), Resources(tuple(nodes(GPUS)), gpu_gib=80.0)
    with pytest.raises(ConfigError, match="must be a multiple of"):
        check_workers(config, cluster)
    evaluation = check_workers(config, cluster, learn=False)
    assert evaluation.actor == ()
    assert [place.gpu for place in evaluation.rollout] == [3]
    assert "actor" not in evaluation.table()


@pytest.mark.parametrize(
    ("count", "weights", "parts"), [(5, [1, 1], [3, 2]), (3, [1, 9], [0, 3]), (4, [2, 0, 6], [1, 0, 3])]
)
def test_parts_are_in_proportion(count, weights, parts):
    assert spread(count, weights) == parts
