"""How far is a stage from fp32, on the inputs that it got there, on frames that calibration did not see?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cascadert.calibration.gate import SCORE_ERROR_LIMITS
from cascadert.calibration.logits import labels_of
from cascadert.calibration.metrics import Noise
from cascadert.calibration.row_measures import add_noise, by_block, least_sqnr_db, score_errors
from cascadert.calibration.stage_runs import LOGITS, GraphRunner, StageTrace
from cascadert.graph import Graph
from cascadert.stage_spec import SCORES, Unit


@dataclass(frozen=True)
class Found:
    """One form of a stage against fp32.

    `sqnr_db` is of the network's logits and of each tensor that it carries, the least; `agreement` the share of the
    logits' arg-maxima that stay, 1 where there are none; `score_error` the mean absolute change of a block's score in
    its `unit`, absent where the stage makes none.
    """

    sqnr_db: float
    agreement: float
    score_error: float | None
    unit: Unit = "bits"

    @property
    def noise(self) -> float:
        """Power of the error over that of the signal."""
        return float(10 ** (-self.sqnr_db / 10))

    @property
    def score_share(self) -> float | None:
        """The score error as a share of what the gate allows."""
        return None if self.score_error is None else self.score_error / SCORE_ERROR_LIMITS[self.unit]


@dataclass(frozen=True)
class Floor:
    """What a stage must reach; `score_share` is how much of the score error that the gate allows it may have."""

    sqnr_db: float
    agreement: float
    score_share: float = 1.0

    def holds(self, found: Found) -> bool:
        """Whether it does; NaN never does."""
        close = found.sqnr_db >= self.sqnr_db and found.agreement >= self.agreement
        return close and (found.score_share is None or found.score_share <= self.score_share)


class StageJudge:
    """Compares forms of one stage with what fp32 gave.

    Args:
        name: the stage.
        traces: its inputs and outputs in fp32, frame by frame; at least one.
        unit: of its scores, if it makes any.
        threads: of ONNX Runtime; 0 for all cores.
    """

    def __init__(self, name: str, traces: Sequence[StageTrace], unit: Unit = "bits", threads: int = 0) -> None:
        self.name, self._traces, self._unit, self._threads = name, traces, unit, threads

    def judge(self, graph: Graph) -> Found:
        """Run a lowered graph on every frame and compare."""
        runner = GraphRunner(self.name, graph, self._threads)
        pairs = [(trace.outputs, runner.run(trace.inputs)) for trace in self._traces]
        noise: dict[str, Noise] = {}
        for wanted, found in pairs:
            add_noise(noise, wanted, found)
        same = [labels_of(w[LOGITS]) == labels_of(f[LOGITS]) for w, f in pairs if LOGITS in w]
        changes = [score_errors(by_block(w), by_block(f)) for w, f in pairs if SCORES in w]
        return Found(
            least_sqnr_db(noise),
            float(np.concatenate([each.ravel() for each in same]).mean()) if same else 1.0,
            float(np.concatenate(changes).mean()) if changes else None,
            self._unit,
        )
