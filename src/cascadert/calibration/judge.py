"""How far is a stage from fp32, on the inputs that it got there, on frames that calibration did not see?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadert.calibration.gate import ENTROPY_LIMIT_BITS
from cascadert.calibration.metrics import sqnr_db
from cascadert.calibration.row_measures import by_block, score_errors
from cascadert.calibration.stage_runs import LOGITS, GraphRunner, StageTrace
from cascadert.graph import Graph


@dataclass(frozen=True)
class Found:
    """One form of a stage against fp32.

    `sqnr_db` is of the network's logits, `agreement` the share of their arg-maxima that stay, `entropy_bits` the mean
    absolute change of a block's score: absent where the stage makes none.
    """

    sqnr_db: float
    agreement: float
    entropy_bits: float | None

    @property
    def noise(self) -> float:
        """Power of the error over that of the logits."""
        return float(10 ** (-self.sqnr_db / 10))


@dataclass(frozen=True)
class Floor:
    """What a stage must reach."""

    sqnr_db: float
    agreement: float
    entropy_bits: float = ENTROPY_LIMIT_BITS

    def holds(self, found: Found) -> bool:
        """Whether it does; NaN never does."""
        close = found.sqnr_db >= self.sqnr_db and found.agreement >= self.agreement
        return close and (found.entropy_bits is None or found.entropy_bits <= self.entropy_bits)


class StageJudge:
    """Compares forms of one stage with what fp32 gave.

    Args:
        name: the stage.
        traces: its inputs and outputs in fp32, frame by frame; at least one.
        threads: of ONNX Runtime; 0 for all cores.
    """

    def __init__(self, name: str, traces: Sequence[StageTrace], threads: int = 0) -> None:
        self.name, self._traces, self._threads = name, traces, threads

    def judge(self, graph: Graph) -> Found:
        """Run a lowered graph on every frame and compare."""
        runner = GraphRunner(self.name, graph, self._threads)
        pairs = [(trace.outputs, runner.run(trace.inputs)) for trace in self._traces]
        wanted, found = (np.concatenate([pair[side][LOGITS].ravel() for pair in pairs]) for side in (0, 1))
        same = np.concatenate([(_labels(w[LOGITS]) == _labels(f[LOGITS])).ravel() for w, f in pairs])
        changes = [score_errors(by_block(w), by_block(f)) for w, f in pairs if "scores" in w]
        entropy = float(np.concatenate(changes).mean()) if changes else None
        return Found(sqnr_db(wanted, found), float(same.mean()), entropy)


def _labels(logits: NDArray[Any]) -> NDArray[Any]:
    """Return the arg-maxima of logits `[n, K, h, w]`; K = 1 stands for two classes."""
    return logits.argmax(axis=1) if logits.shape[1] > 1 else logits[:, 0] > 0
