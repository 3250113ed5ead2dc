"""A stage: a front that makes what its network sees, the network, and a back that makes labels and scores of that.

Everything that touches pixels is in here. The module is exported as it stands, and it is the reference that parity
compares with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cascadert.export.stages.answers import checked_logits, named_answer
from cascadert.export.stages.backs import BlockBack, FrameBack
from cascadert.export.stages.fronts import INDICES, Blocks, Carried, Front, StageContext, WholeFrame
from cascadert.spec import CascadeSpec
from cascadert.stage_spec import LABELS, LOGITS, OF_LOGITS, StageSpec

__all__ = ["Stage", "StageContext", "make_stages"]


class Stage(nn.Module):
    """One stage of a cascade; inputs and outputs are positional, named by `input_names` and `output_names`.

    Args:
        network: maps what `network_inputs` returns to logits `[n, K, h, w]`, or to a dict of named tensors.
        stage: its specification.
        context: what all stages share.
        input_size: height and width that a network of whole frames sees.
    """

    def __init__(
        self, network: nn.Module, stage: StageSpec, context: StageContext, input_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.network = network  # the exporter finds the bare network by this name
        self.spec, self.context, self.wiring = stage, context, context.wiring[stage.name]
        self.subject = f"stage '{stage.name}': {stage.model or stage.network}"
        self.front: Front
        if self.wiring.input == "blocks":
            self.front = Blocks(stage, context)
        elif self.wiring.input == "carried":
            self.front = Carried(stage, context)
        else:
            self.front = WholeFrame(stage, context, input_size)
        self.back: FrameBack | BlockBack | None = None
        if OF_LOGITS & set(self.wiring.emit):
            self.back = (BlockBack if self.wiring.input == "blocks" else FrameBack)(self.subject, stage, context)

    @property
    def name(self) -> str:
        """Of the stage."""
        return self.spec.name

    @property
    def sources(self) -> dict[str, str]:
        """Each input of `forward`, in order, and the tensor that it is."""
        return {**self.front.sources, **(self.back.sources if self.back is not None else {})}

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the positional inputs of `forward`."""
        return tuple(self.sources)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs of `forward`."""
        return self.wiring.emit

    @property
    def makes_labels(self) -> bool:
        """Whether `margins` means anything."""
        return LABELS in self.wiring.emit

    @property
    def sees_blocks(self) -> bool:
        """Whether it reads the first n blocks."""
        return INDICES in self.sources

    def network_inputs(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return what the network sees, float32: pixels `[n, 3, h, w]` first, if any, then carried tensors."""
        return self.front(dict(zip(self.input_names, tensors, strict=True)))

    def answer(self, *tensors: Tensor) -> dict[str, Tensor]:
        """Return what the network returns, by name, float32.

        Raises:
            NetworkError: not what the stage needs.
        """
        return self.named(self.network(*self.network_inputs(*tensors)))

    def logits(self, *tensors: Tensor) -> Tensor:
        """Return what labels are made of: float32 `[N, K, H, W]`, of blocks `[n, K, Bh, Bw]`."""
        assert self.back is not None, "a stage that only carries has no logits"
        return self.back.logits(self.answer(*tensors))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Map the inputs to the outputs."""
        answer = self.answer(*tensors)
        made: dict[str, Tensor] = {name: value for name, value in answer.items() if name not in OF_LOGITS}
        if self.back is not None:
            made |= self.back(answer, dict(zip(self.input_names, tensors, strict=True)))
        return tuple(made[name] for name in self.output_names)

    def margins(self, *tensors: Tensor) -> Tensor:
        """Return how far each pixel is from another label, infinity where the stage wrote none: float32 `[N, H, W]`."""
        assert self.back is not None, "a stage that only carries has no labels"
        return self.back.margins(self.answer(*tensors), dict(zip(self.input_names, tensors, strict=True)))

    def named(self, answer: Any) -> dict[str, Tensor]:
        """Return what the network returned by name; see `answer`."""
        named = named_answer(self.subject, answer, self.wiring.emit)
        if self.back is not None:
            checked_logits(self.subject, named[LOGITS], self.context.num_classes)
        return named


def make_stages(spec: CascadeSpec, networks: Mapping[str, nn.Module]) -> tuple[Stage, ...]:
    """Put the glue of `spec` around its networks (by stage name), in evaluation mode.

    Raises:
        SpecError: carried blocks on a grid that does not divide the frame.
    """
    context = StageContext(spec.frame, spec.make_grid(), spec.num_classes, spec.wiring)
    return tuple(
        Stage(networks[stage.name], stage, context, spec.network_input_size(stage)).eval() for stage in spec.stages
    )
