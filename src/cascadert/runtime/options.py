"""How a pipeline runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from cascadert.errors import InvalidRequest
from cascadert.runtime.costs import StageCosts
from cascadert.runtime.executables.tensorrt.context import DEFAULTS, TensorRTOptions
from cascadert.runtime.plan import Plan

Mode = Literal["overlapped", "serial"]
Overflow = Literal["wait", "drop-oldest"]
ALL_TENSORS = "all"


@dataclass(frozen=True)
class RuntimeOptions:
    """How a pipeline runs.

    Attributes:
        mode: "overlapped" runs every stage on a stream of its own, so that stages of several frames run side by side;
            "serial" runs one after the other on one stream. Labels are the same, bit for bit.
        threads: threads of each stage on the CPU, one number or one for each stage. 0: in serial mode all cores; in
            overlapped mode the cores are shared out among the stages, see `placement`.
        pin: hold each stage's threads on cores of its own, in overlapped mode; none: where there are enough of them.
        slots: frames whose tensors fit on the device at once; 0: one more than the longest chain of stages. Serial: 1.
        queue: frames that may wait for a slot.
        overflow: what `submit` does where as many wait: "wait" until there is room, or "drop-oldest" of those that wait
            and count it. That is for sources with a rate of their own: a burst is faster than the thread that begins
            frames, and leaves the last of it.
        timeout_s: after how long without any progress a stage counts as hung; none: never.
        deadline_ms: from submission, for each frame that has none of its own; none: no deadline. The result is then the
            labels of the last stage that has finished (anytime inference); the rest is given up. Frames with a deadline
            are queued stage by stage, since what is queued cannot be taken back.
        tensors: outputs to keep of each frame beside the labels, as `stage.output`; "all" of them.
        device_labels: leave a copy of the labels on the device (`Result.device_labels`).
        device: "auto", "host", or for engines "cuda", "cuda-core" or "pycuda".
        ordinal: which GPU, among those the driver shows.
        tensorrt: how engines run; the pipeline decides about their memory.
        costs: measured costs around each decision, by stage; a latency budget needs them.
    """

    mode: Mode = "overlapped"
    threads: int | Mapping[str, int] = 0
    pin: bool | None = None
    slots: int = 0
    queue: int = 1
    overflow: Overflow = "wait"
    timeout_s: float | None = 120.0
    deadline_ms: float | None = None
    tensors: tuple[str, ...] | Literal["all"] = ()
    device_labels: bool = False
    device: str = "auto"
    ordinal: int = 0
    tensorrt: TensorRTOptions = DEFAULTS
    costs: Mapping[str, StageCosts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, known in (("mode", get_args(Mode)), ("overflow", get_args(Overflow))):
            if getattr(self, name) not in known:
                raise InvalidRequest(name, f"is '{getattr(self, name)}'", f"choose {' or '.join(known)}")
        for name, least in (("slots", 0), ("queue", 1)):
            if getattr(self, name) < least:
                raise InvalidRequest(name, f"is {getattr(self, name)}", f"give {least} or more")
        if self.mode == "serial" and self.slots not in (0, 1):
            raise InvalidRequest("slots", f"is {self.slots} in serial mode", "serial mode has one slot")
        if self.mode == "serial" and self.pin:
            raise InvalidRequest("pin", "is asked for in serial mode", "every stage has all cores there: leave it out")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise InvalidRequest("timeout_s", f"is {self.timeout_s}", "give seconds above 0, or none")
        check_deadline(self.deadline_ms)


def check_deadline(deadline_ms: float | None) -> None:
    """Check that a deadline is one.

    Raises:
        InvalidRequest: it is not above 0.
    """
    if deadline_ms is not None and not 0 < deadline_ms < math.inf:
        raise InvalidRequest("deadline_ms", f"is {deadline_ms}", "give milliseconds above 0, or none")


def kept_tensors(plan: Plan, options: RuntimeOptions) -> frozenset[str]:
    """Return the outputs to keep of each frame.

    Raises:
        InvalidRequest: an output that no stage has.
    """
    if options.tensors == ALL_TENSORS:
        return frozenset(plan.tensors)
    unknown = sorted(set(options.tensors) - set(plan.tensors))
    if unknown:
        raise InvalidRequest(f"tensor '{unknown[0]}'", "is no output", f"outputs are {', '.join(plan.tensors)}")
    return frozenset(options.tensors)
