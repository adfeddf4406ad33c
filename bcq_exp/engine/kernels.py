"""A traced function as a list of kernels that runs in C++, no result computed twice."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

# what TorchScript takes for Python's constants: the numbers of c10's enumerations
_ENUMERATIONS = {torch.strided: 0, torch.contiguous_format: 0, torch.preserve_format: 1}
_TENSORS = torch._C.ListType.ofTensors()
# views whose schemas do not say so
_SILENT_VIEWS = {
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.unsafe_chunk.default,
    torch.ops.aten.unsafe_split.Tensor,
    torch.ops.aten.unsafe_split_with_sizes.default,
}


def simplify(graph: GraphModule, inputs: Sequence[Tensor]) -> None:
    """Remove, in place, every node whose result another one has already.

    Casts of weights, transpositions and concatenations that several equations ask for are then made
    once. A result that is written to is never shared, and nothing is shared across a write, by
    whatever tensor it goes: ``inputs`` are the function's, and may share memory with its constants.
    """
    for node in reversed(graph.graph.nodes):  # torch's optimizers leave marks for its profiler
        if isinstance(node.target, OpOverload) and node.target.namespace == "profiler":
            graph.graph.erase_node(node)
    base: dict[Node, Node] = {}  # the node whose memory a node's result lies in
    owner: dict[int, Node] = {}  # of the memory that is there before
    there = iter(inputs)
    for node in graph.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            tensor = next(there) if node.op == "placeholder" else getattr(graph, node.target)
            base[node] = owner.setdefault(tensor.untyped_storage().data_ptr(), node)
        else:
            source = _viewed(node)
            base[node] = node if source is None else base[source]
    writes = {base[target]: 0 for node in base for target in _written(node)}
    seen: dict[Any, Node] = {}
    for node in base:
        if not isinstance(node.target, OpOverload):
            continue
        if targets := list(_written(node)):
            for target in targets:
                writes[base[target]] += 1
        elif _is_its_input(node):
            _replace(node, node.all_input_nodes[0])
        elif node not in writes and torch.Tag.nondeterministic_seeded not in node.target.tags:
            versions = tuple(writes.get(base[x], 0) for x in node.all_input_nodes)
            computed = (node.target, repr(node.args), repr(node.kwargs), versions)
            first = seen.setdefault(computed, node)
            if first is not node:
                _replace(node, first)
    graph.recompile()


def fuse_linear(graph: GraphModule) -> None:
    """Make one kernel, in place, of a product that oneDNN computes, its bias and its ReLU.

    The same bits as apart, without two passes over the activations.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.addmm.default):
        bias, x, transposed = node.args
        if transposed.target is not torch.ops.aten.t.default or not _is_onednn(node.meta["val"]):
            continue
        first = min(node.users)  # nodes are ordered as they stand in the graph
        with_relu = first.target is torch.ops.aten.relu_.default
        with graph.graph.inserting_before(node):
            fused = graph.graph.call_function(
                torch.ops.mkldnn._linear_pointwise.default,
                (x, transposed.args[0], bias, "relu" if with_relu else "none", [], ""),
            )
        if with_relu:
            _replace(first, node)
        _replace(node, fused)
    graph.recompile()


def compile_kernels(graph: GraphModule, times: int = 1) -> Callable[..., None]:
    """The graph, so many times in a row, as one TorchScript function of the same tensors.

    It returns nothing: it is called for what it writes to them.

    Raises:
        TypeError: for a node that is no kernel of torch's.
    """
    script: Any = torch._C.Graph()
    values: dict[Node, Any] = {}
    for node in graph.graph.find_nodes(op="placeholder"):
        values[node] = script.addInput(node.name)
    for node in graph.graph.find_nodes(op="get_attr"):
        values[node] = script.insertConstant(getattr(graph, node.target).detach())
    calls = [node for node in graph.graph.nodes if node not in values and node.op != "output"]
    for node in calls * times:
        if node.target is operator.getitem:
            source, index = node.args
            values[node] = values[source][index]
        elif isinstance(node.target, OpOverload):
            values[node] = _emit(script, node, values)
        else:
            raise TypeError(f"{node.format_node()}: no kernel")
    for value in list(values.values())[:1]:  # a function must return something
        script.registerOutput(value)
    kernels = torch._C._create_function_from_graph("kernels", script)

    def run(*tensors: Tensor) -> None:
        # TorchScript's optimizer would leave out kernels that change a list of tensors
        with torch.no_grad(), torch.jit.optimized_execution(False):
            kernels(*tensors)

    return run


def _emit(script: Any, node: Node, values: dict[Node, Any]) -> Any:
    """Append a node's kernel; returns its result, or a list of its results."""
    schema = node.target._schema  # type: ignore[union-attr]
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | node.kwargs
    inputs = [
        _value(script, given.get(a.name, a.default_value), a.type, values) for a in schema.arguments
    ]
    kernel = script.create(schema.name, inputs, len(schema.returns))
    script.appendNode(kernel)
    results = list(kernel.outputs())
    for result, returned in zip(results, schema.returns, strict=True):
        result.setType(returned.type)
    if len(results) != 1:
        return results
    if schema.returns[0].type != _TENSORS:
        return results[0]
    unpacking = script.create("prim::ListUnpack", results, len(node.meta["val"]))
    script.appendNode(unpacking)
    return [_as_tensor(result) for result in unpacking.outputs()]


def _value(script: Any, argument: Any, type: Any, values: dict[Node, Any]) -> Any:
    """An argument of a kernel: an earlier result, a list of them, or a constant."""
    if isinstance(argument, Node):
        return values[argument]
    if isinstance(argument, list | tuple):
        if not argument or isinstance(argument[0], Node):
            kind = type.getElementType() if isinstance(type, torch._C.OptionalType) else type
            made = script.create("prim::ListConstruct", [values[x] for x in argument], 1)
            made.output().setType(kind)
            script.appendNode(made)
            return made.output()
        argument = list(argument)
    if isinstance(argument, torch.layout | torch.memory_format):
        argument = _ENUMERATIONS[argument]
    return script.insertConstant(argument)


def _as_tensor(value: Any) -> Any:
    value.setType(torch._C.TensorType.get())
    return value


def _viewed(node: Node) -> Node | None:
    """The node whose memory a node's result is a part of, if it is."""
    if node.target is operator.getitem or node.target in _SILENT_VIEWS:
        return node.all_input_nodes[0]
    if not isinstance(node.target, OpOverload):
        return None
    for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
        if argument.alias_info is not None and isinstance(value, Node):
            return value
    return None


def _is_its_input(node: Node) -> bool:
    """Whether a view shows all of what it views, as that is."""
    source = _viewed(node)
    if source is None or not all(isinstance(x.meta.get("val"), Tensor) for x in (node, source)):
        return False
    views = [x.meta["val"] for x in (node, source)]
    shown, whole = ((x.dtype, x.shape, x.stride(), x.storage_offset()) for x in views)
    return shown == whole


def _is_onednn(product: Tensor) -> bool:
    """Whether torch leaves a product of this type to oneDNN (:mod:`bcq_exp.engine.precision`)."""
    if product.dtype == torch.float32:
        return torch.get_float32_matmul_precision() == "medium"
    return product.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _written(node: Node) -> Iterator[Node]:
    """The nodes whose memory a node writes to."""
    if isinstance(node.target, OpOverload):
        for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                targets: Any = [value] if isinstance(value, Node) else value
                yield from targets


def _replace(node: Node, by: Node) -> None:
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)
