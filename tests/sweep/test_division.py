"""Runs are divided so that workers end together."""

import random
from types import SimpleNamespace

import pytest

from bcq_exp.sweep.division import Kind, divided, ends


def kind(num_runs, each, most=1000, overhead=0.0):
    cost = SimpleNamespace(seconds=lambda count: overhead + each * count)
    return Kind(range(num_runs), most, cost)


def sizes(groups):
    return [len(group.runs) for group in groups]


def test_equal_runs_are_shared_evenly():
    assert sizes(divided([kind(10, 1.0)], 2)) == [5, 5]
    assert sizes(divided([kind(10, 1.0)], 1)) == [10]
    assert sizes(divided([kind(10, 1.0, most=4)], 1)) == [4, 3, 3]
    assert sizes(divided([kind(2, 1.0)], 8)) == [1, 1]  # no empty group for a worker without a run


def test_as_many_kinds_as_workers_stay_whole():
    groups = divided([kind(8, 1.0, overhead=1.0) for _ in range(8)], 8)
    assert sizes(groups) == [8] * 8


def test_costly_runs_are_spread_and_cheap_ones_kept_together():
    cheap, costly = kind(8, 1.0), kind(8, 10.0)
    groups = divided([cheap, costly], 4)
    assert groups[0].kind is costly
    assert max(ends(groups, 4)) < 1.25 * 88 / 4
    assert sum(group.kind is cheap for group in groups) <= 3


def test_where_a_cost_is_unknown_groups_are_weighted_by_their_runs():
    groups = divided([kind(6, 100.0), Kind(range(2), 1000, None)], 2)
    assert [(len(group.runs), group.seconds) for group in groups] == [(2, 2.0)] * 4


@pytest.mark.parametrize("seed", range(50))
def test_every_run_is_trained_once_and_no_worker_is_waited_for_long(seed):
    rng = random.Random(seed)
    workers = rng.randint(1, 9)
    kinds = [
        kind(rng.randint(1, 40), rng.uniform(0.1, 10), most=rng.randint(1, 20))
        for _ in range(rng.randint(1, 6))
    ]
    groups = divided(kinds, workers)
    trained = sorted((kinds.index(g.kind), run) for g in groups for run in g.runs)
    assert trained == [(k, run) for k, each in enumerate(kinds) for run in each.runs]
    assert all(len(g.runs) <= g.kind.most for g in groups)
    taken = [group.seconds for group in groups]
    assert taken == sorted(taken, reverse=True)
    busy = ends(groups, workers)
    assert sum(busy) == pytest.approx(sum(taken))
    # Graham's bound of longest processing time first, of what no division could be better than
    least = max(sum(taken) / workers, max(each.cost.seconds(1) for each in kinds))
    assert busy[-1] <= 4 / 3 * least + max(taken) / 3
    assert busy[-1] - busy[0] <= max(taken)  # and no worker idles while a group waits
