"""The lint: what a target's builder would refuse in a graph, or compute as something else, before anything is built.

It also covers the parsers that are not here to try: those of TensorRT 8.5 to 11. Rules come with their source:
`operators`, `tensor_types` and `quantization` hold them, `releases` the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from cascadert.engines.facts import BackendFacts
from cascadert.errors import BuildError
from cascadert.graph import Graph


@dataclass(frozen=True)
class Finding:
    """One thing in a graph that a builder does not take as it is meant.

    Attributes:
        rule: a short name of what was broken.
        node: the node's name, or that of an input or output; empty for the graph as a whole.
        module: the network's module that the node came from, if it came from one.
        where: what to call it in a message.
        found: what is wrong, and for which releases.
        remedy: what to do.
    """

    rule: str
    node: str
    module: str | None
    where: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where} {self.found}; {self.remedy}"


def lint_graph(graph: Graph, facts: BackendFacts, compute_capability: str | None = None) -> tuple[Finding, ...]:
    """List what is wrong with a graph for every version that a target's builder may have, in the graph's order.

    Args:
        graph: as the builder would be given it.
        facts: of the builder; where its range of versions is wide, the strictest counts.
        compute_capability: of the GPU, as in "7.5", if known.

    Raises:
        GraphError: the graph is no ONNX.
        TargetError: nothing is known of these versions.
    """
    from cascadert.engines.lint.walk import walk

    return tuple(walk(graph, facts, compute_capability))


def check_graph(subject: str, graph: Graph, facts: BackendFacts, compute_capability: str | None = None) -> None:
    """Refuse a graph that has findings.

    Raises:
        BuildError: names the first node, its module, what is wrong, and how many findings there are besides.
        GraphError: the graph is no ONNX.
        TargetError: nothing is known of these versions.
    """
    findings = lint_graph(graph, facts, compute_capability)
    if findings:
        first, more = findings[0], len(findings) - 1
        others = f" (and {more} more: see cascadert lint)" if more else ""
        raise BuildError(subject, f"{first.where} {first.found}{others}", first.remedy)
