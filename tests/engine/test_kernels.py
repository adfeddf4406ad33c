"""Recorded kernels do what the program does, with no result computed twice or across a write."""

from collections import Counter

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from bcq_exp.engine.capture import AT_ONCE, eager, kernel_list
from bcq_exp.engine.kernels import compile_kernels, fuse_linear, simplify
from tests.bench import composed
from tests.bench.sizes import SIZES
from tests.commands import engine_of, placement_of
from tests.same import assert_same_state


def kernels_of(function, *tensors):
    graph = make_fx(function)(*tensors)
    simplify(graph, tensors)
    return graph, Counter(
        node.target.overloadpacket.__name__
        for node in graph.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    )


def test_what_is_asked_for_twice_is_computed_once():
    def function(x, out):
        out.copy_(x.exp() * x.exp() + x.detach().view(3).exp())

    x, out = torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3)
    graph, counts = kernels_of(function, x.clone(), out.clone())
    assert counts == {"exp": 1, "mul": 1, "add": 1, "copy_": 1}
    compile_kernels(graph)(x, out)
    torch.testing.assert_close(out, x.exp() ** 2 + x.exp())


def test_nothing_is_shared_across_a_write_through_any_view():
    def function(x, out):
        before = x.exp()
        x.view(2, 2)[0].add_(1)
        torch._foreach_mul_([x], 2)
        out.copy_(x.exp() - before)

    x, out = torch.arange(4.0), torch.zeros(4)
    graph, counts = kernels_of(function, x.clone(), out.clone())
    assert counts["exp"] == 2
    compile_kernels(graph)(x, out)
    assert x.tolist() == [2, 4, 4, 6]
    torch.testing.assert_close(out, x.exp() - torch.arange(4.0).exp())


def test_nothing_is_shared_across_a_write_through_a_view_that_does_not_say_so():
    def function(x, out):
        before = torch.ops.aten._unsafe_view(x, [2, 2]).exp()
        x.add_(1)
        out.copy_((torch.ops.aten._unsafe_view(x, [2, 2]).exp() - before).view(4))

    x, out = torch.arange(4.0), torch.zeros(4)
    graph, counts = kernels_of(function, x.clone(), out.clone())
    assert counts["exp"] == 2
    compile_kernels(graph)(x, out)
    torch.testing.assert_close(out, x.exp() - torch.arange(4.0).exp())


def test_nothing_is_shared_across_a_write_through_another_tensor_of_the_same_memory():
    x, out = torch.arange(4.0), torch.zeros(4)
    alias = x.detach()  # as an optimizer's own parameter of a stack is

    def function(x, out):
        before = x.exp()
        alias.add_(1)
        out.copy_(x.exp() - before)

    _, counts = kernels_of(function, x, out)
    assert counts["exp"] == 2


def test_a_result_that_is_written_to_is_never_shared():
    def function(x, out):
        first, second = x + 1, x + 1
        first.mul_(3)
        out.copy_(first + second)

    x, out = torch.ones(2), torch.zeros(2)
    graph, _ = kernels_of(function, x.clone(), out.clone())
    compile_kernels(graph)(x, out)
    assert out.tolist() == [8, 8]


def test_random_numbers_are_drawn_each_time():
    def function(x, out):
        out.copy_(torch.rand_like(x) - torch.rand_like(x))

    _, counts = kernels_of(function, torch.ones(5), torch.zeros(5))
    assert counts["rand_like"] == 2


def test_results_in_lists_and_kernels_that_change_lists():
    def function(x, out):
        first, second = x.split([1, 2])
        torch._foreach_lerp_([out], [torch.cat([second, first])], 0.5)

    x, out = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3)
    graph, _ = kernels_of(function, x.clone(), out.clone())
    compile_kernels(graph)(x, out)
    assert out.tolist() == [1.0, 1.5, 0.5]


def test_recording_leaves_the_state_as_it_was_and_a_replay_is_a_run():
    state = torch.zeros(())

    def program():
        state.add_(1)

    replay = kernel_list(program, [state])
    assert state == 0
    for times, total in (
        (1, 1),
        (3, 4),
        (AT_ONCE, 4 + AT_ONCE),
        (2 * AT_ONCE + 1, 5 + 3 * AT_ONCE),
    ):
        replay(times)
        assert state == total


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fused_kernels_of_wide_networks_give_the_bits_of_the_plain_engine(precision, monkeypatch):
    cfg = composed.compose_config(SIZES["paper"], [f"trainer.precision={precision}"])
    data = composed.dataset(SIZES["paper"])
    fused = []
    monkeypatch.setattr(
        "bcq_exp.engine.capture.fuse_linear",
        lambda graph: (fuse_linear(graph), fused.append("_linear_pointwise" in graph.code)),
    )
    with placement_of(cfg).precision.in_force():
        recorded, plain = engine_of([cfg], data), engine_of([cfg], data, capture=eager)
        assert torch.equal(recorded.advance(12), plain.advance(12))
        expected = precision == "bf16" or torch.get_float32_matmul_precision() == "medium"
    assert_same_state(recorded.state_dict(0), plain.state_dict(0))
    assert fused == [expected and torch.backends.mkldnn.is_available()]
