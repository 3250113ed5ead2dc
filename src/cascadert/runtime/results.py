"""What the pipeline hands out: tickets for frames, results, and where every millisecond went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cascadert.device import Buffer
from cascadert.spec import SelectPolicy

Array = NDArray[Any]
Planes = Array | Mapping[str, Any]
"""A frame: uint8 `[N, H, W, C]` (`[H, W, C]` for one camera), or a mapping of planes, as in `frame.y` and `frame.uv`.

Planes on the host are numpy arrays or anything that exports DLPack there; planes on the pipeline's GPU export DLPack.
"""

Policies = Mapping[str, SelectPolicy]
Outcome = Literal["ran", "skipped", "expired"]
NO_POLICIES: Policies = MappingProxyType({})


@dataclass(frozen=True)
class Submission:
    """A frame and what belongs to it, for `Pipeline.stream`: see `Pipeline.submit`."""

    frame: Planes
    timestamp_s: float | None = None
    policies: Policies = field(default_factory=dict)
    context: Any = None
    deadline_ms: float | None = None


@dataclass(frozen=True)
class Ticket:
    """A frame that was submitted: its number from 0 on, and what the caller said of it.

    `timestamp_s` and `context` are the caller's and come back with the result.
    """

    number: int
    timestamp_s: float | None = None
    context: Any = None


@dataclass(frozen=True)
class Span:
    """One piece of work on one stream, in milliseconds since the pipeline was opened.

    `stream` is "host" for decisions; `n` is the number of blocks of a stage that refines. What `dropped` work made was
    not used: its stage was queued before it was decided about, in vain, or did not finish by the deadline.
    """

    name: str
    stream: str
    start_ms: float
    end_ms: float
    n: int | None = None
    dropped: bool = False

    @property
    def milliseconds(self) -> float:
        """How long it took."""
        return self.end_ms - self.start_ms


@dataclass(frozen=True)
class StageRun:
    """What one stage did on one frame.

    `n`, `scores` float32 and `order` int32 `[N * G]` are the decision before the stage: it refined the blocks
    `order[:n]` (block i is block i % G of camera i // G). A stage that sees no blocks ran once where n = 1. One that
    follows another has its n, and like one without any decision neither scores nor order; n is absent where nothing was
    decided. `predicted_ms` is what the decision expected of t_f + t_b(n), where it knows costs; `theta` a controller's
    choice. The outcome is "skipped" where n = 0 or what the stage reads was skipped (n = 0 then, too), and "expired"
    where the stage was not finished by the deadline. `milliseconds` are those of a stage that ran, and 0 for others.
    """

    stage: str
    milliseconds: float
    n: int | None = None
    scores: NDArray[np.float32] | None = None
    order: NDArray[np.int32] | None = None
    predicted_ms: float | None = None
    theta: float | None = None
    outcome: Outcome = "ran"


@dataclass(frozen=True)
class Result:
    """Everything about one frame; the arrays belong to the caller.

    `labels` is uint8 `[N, H, W]`, made by the stage `labels_from`; `tensors` maps `stage.output` to those outputs that
    `RuntimeOptions.tensors` asks for, of stages that ran. `latency_ms` is from submission until the labels were on the
    host. `spans` says when each piece of work ran that had ended by then. `dropped` counts the frames that were dropped
    between the result before and this one. A result is `expired` where its deadline passed before all stages had
    ended: its labels are the last that were finished then, or the first that came.
    """

    labels: NDArray[np.uint8]
    runs: tuple[StageRun, ...]
    tensors: Mapping[str, Array]
    latency_ms: float
    ticket: Ticket
    spans: tuple[Span, ...] = ()
    dropped: int = 0
    device_labels: Buffer | None = None
    labels_from: str = ""
    expired: bool = False


@dataclass(frozen=True)
class Counts:
    """What became of the frames that were submitted: each is in flight or waiting, or one of the others."""

    submitted: int = 0
    delivered: int = 0
    failed: int = 0
    dropped: int = 0
    cancelled: int = 0

    @property
    def in_flight(self) -> int:
        """Frames whose fate is open, or whose result was not taken yet."""
        return self.submitted - self.delivered - self.failed - self.dropped - self.cancelled
