"""Fusion: which elementwise operations a runtime's graph optimizer leaves, and whose they are.

What follows a convolution or a product is often computed by its kernel, but by which depends on
how the weights are stored. A batch norm melts into constant weights and not into weights that a
node dequantizes on every call, and MatMulNBits adds the bias that MatMul leaves to an Add. So
followers belong to the unit that they follow. The rules are those of ONNX Runtime 1.31
(onnxruntime/core/optimizer: conv_bn_fusion, conv_activation_fusion, conv_add_act_fusion,
pad_fusion, bias_gelu_fusion, matmul_scale_fusion), checked against the profiles of real sessions
of MiniLM, EfficientNet-Lite0 and CREPE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from mixq.cost.algorithm import CHANNEL_NORMALIZATIONS, operator
from mixq.graph.work import Work

if TYPE_CHECKING:
    import networkx as nx

Read: TypeAlias = Literal["float", "packed", "dequantized"]
"""How a kernel meets its weights: as constant floats, packed, or made floats by a node before."""
Step: TypeAlias = tuple[Work, str]
"""An operation that is left, and what torch calls it or of which kind it is."""
ACTIVATIONS: Final = frozenset(
    {"relu", "hardtanh", "clamp", "clamp_min", "relu6", "leaky_relu", "sigmoid", "tanh",
     "hardsigmoid"}
)  # fmt: skip
"""What a convolution's kernel applies to its result."""
BIASED: Final = frozenset({"addmm", "linear", "baddbmm"})
STAGES: Final = {
    "conv": ("normalization", "activation", "sum", "activation"),
    "gemm": ("bias", "activation"),
}
"""What may follow, in this order, each of them or not."""
SCALINGS: Final = frozenset({"mul", "div"})


@dataclass(frozen=True)
class Fusion:
    """What becomes of the elementwise operations of a graph.

    Attributes:
        gone: nodes that no kernel is left of, whatever the formats are.
        followers: node of a unit -> the nodes behind it that its kernel may compute.
        turned: node of an attention product -> what is transposed for it.
    """

    gone: frozenset[str]
    followers: Mapping[str, tuple[str, ...]]
    turned: Mapping[str, tuple[Step, ...]]

    @property
    def claimed(self) -> frozenset[str]:
        """Nodes that are priced with a unit, or not at all."""
        return self.gone.union(*self.followers.values())


def fusion(graph: nx.DiGraph[str]) -> Fusion:
    """What an optimizer makes of the graph of a `ModelGraph`."""
    gone: set[str] = set()
    followers: dict[str, tuple[str, ...]] = {}
    turned: dict[str, tuple[Step, ...]] = {}
    taken: set[str] = set()
    for node, data in graph.nodes(data=True):
        kind = data["work"].kind
        if kind == "elementwise":
            if not data["units"] and _melts(graph, node, data):
                gone.add(node)
        elif kind == "attention":
            turned[node] = tuple(_turned(graph, node))
        elif kind in ("conv", "gemm") and data["units"]:
            found = _followers(graph, node, kind, taken)
            if found:
                followers[node] = tuple(found)
                taken.update(found)
    return Fusion(frozenset(gone - taken), followers, turned)


def left_over(
    graph: nx.DiGraph[str], node: str, followers: tuple[str, ...], read: Read, batch_size: int
) -> list[Step]:
    """What is computed beside the kernel of a unit's node.

    Args:
        graph: of the model.
        node: a convolution or a product.
        followers: of the node.
        read: how its kernel meets its weights.
        batch_size: samples of the traced batch; a product with as many rows has inputs of two
            dimensions, whose kernel (Gemm) adds biases.
    """
    data = graph.nodes[node]
    steps: list[Step] = []
    if data["work"].kind == "conv":
        direct = True
        for follower in followers:
            name = operator(graph.nodes[follower].get("op", ""))
            fused = read == "float" or (direct and name in ACTIVATIONS)
            direct = False
            if not fused:
                steps.append(_step(graph, follower))
        return steps
    return [*steps, *_behind_product(graph, node, followers, read, data["work"].m == batch_size)]


def _behind_product(
    graph: nx.DiGraph[str], node: str, followers: tuple[str, ...], read: Read, is_gemm: bool
) -> list[Step]:
    """What is left of a bias and an activation; Gemm adds the one and applies the other."""
    moved = graph.nodes[node]["work"].output_bytes
    whole = Work("elementwise", input_bytes=moved, output_bytes=moved)
    names = [operator(graph.nodes[name].get("op", "")) for name in followers]
    has_bias = operator(graph.nodes[node].get("op", "")) in BIASED or "add" in names
    acts = [
        name for name, op in zip(followers, names, strict=True) if op in (*ACTIVATIONS, "gelu")
    ]
    if read == "packed" or not has_bias:
        return [_step(graph, name) for name in acts]
    if is_gemm:
        return [_step(graph, name) for name in acts if "gelu" in names]
    if "gelu" in names:
        return [(whole, "biased_gelu")]
    return [(whole, "elementwise"), *(_step(graph, name) for name in acts)]


def _melts(graph: nx.DiGraph[str], node: str, data: Mapping[str, Any]) -> bool:
    """Whether an elementwise operation is part of its neighbours: padding, or a factor."""
    name = operator(data.get("op", ""))
    readers = [graph.nodes[other]["work"].kind for other in graph.successors(node)]
    if name == "constant_pad_nd":
        return bool(readers) and set(readers) == {"conv"}
    if name in SCALINGS and data["work"].input_bytes <= data["work"].output_bytes:
        makers = [graph.nodes[other]["work"].kind for other in graph.predecessors(node)]
        return "attention" in makers or "attention" in readers
    return False


def _turned(graph: nx.DiGraph[str], node: str) -> list[Step]:
    """Heads are cut out of a product's columns, so their axes change places before they meet."""
    steps: list[Step] = []
    for other in graph.predecessors(node):
        work: Work = graph.nodes[other]["work"]
        if work.kind == "gemm":
            moved = work.output_bytes
            steps.append((Work("elementwise", input_bytes=moved, output_bytes=moved), "transpose"))
    return steps


def _followers(graph: nx.DiGraph[str], node: str, kind: str, taken: set[str]) -> list[str]:
    """The chain of elementwise operations behind a node, as far as kernels reach."""
    found: list[str] = []
    stages = STAGES[kind]
    stage = 0
    here = node
    while graph.out_degree(here) == 1:
        here = next(iter(graph.successors(here)))
        data = graph.nodes[here]
        if here in taken or data["units"] or data["work"].kind != "elementwise":
            break
        role = _role(operator(data.get("op", "")), data["work"], kind)
        if role not in stages[stage:]:
            break
        stage = stages.index(role, stage) + 1
        found.append(here)
    return found


def _role(name: str, work: Work, kind: str) -> str:
    if kind == "gemm":
        if name == "add":  # with a vector: another result would be read as well
            return "bias" if work.input_bytes <= work.output_bytes else ""
        return "activation" if name in ACTIVATIONS or name == "gelu" else ""
    if name in CHANNEL_NORMALIZATIONS:
        return "normalization"
    if name in ACTIVATIONS:
        return "activation"
    return "sum" if name == "add" else ""


def _step(graph: nx.DiGraph[str], node: str) -> Step:
    data = graph.nodes[node]
    return data["work"], data.get("op", "")
