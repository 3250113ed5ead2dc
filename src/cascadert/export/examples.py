"""One street through every stage in PyTorch: examples to trace with, and the first proof that networks work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cascadert.errors import CascadertError, NetworkError
from cascadert.export.random_weights import prepare
from cascadert.export.stages import Stage
from cascadert.export.stages.fronts import INDICES
from cascadert.pixels import planes_from_rgb
from cascadert.scenes import SceneOptions, render
from cascadert.spec import CascadeSpec
from cascadert.stage_spec import LOGITS

Example = dict[str, Tensor]


def example_frame(spec: CascadeSpec, seed: int = 0) -> Example:
    """Render a street for each camera, as the planes of the port `frame`."""
    options = SceneOptions(height=max(spec.frame.height, 64), width=max(spec.frame.width, 64))
    images = [render(seed + camera, 0, options).image for camera in range(spec.frame.cameras)]
    rgb = torch.stack([torch.from_numpy(image) for image in images])[:, : spec.frame.height, : spec.frame.width]
    planes = planes_from_rgb(rgb.contiguous().numpy(), spec.frame.pixel_format)
    return {name: torch.from_numpy(plane) for name, plane in planes.items()}


def examples(
    stages: tuple[Stage, ...], spec: CascadeSpec, *, prepared: bool = False
) -> Iterator[tuple[Stage, Example]]:
    """Yield each stage and its inputs by name: a street, and of its blocks two that lie far apart.

    Args:
        stages: in order.
        spec: their specification.
        prepared: give networks without weights sensible statistics first; see `prepare`.

    Raises:
        NetworkError: a network that fails, or returns what it should not.
    """
    tensors, total = example_frame(spec), spec.blocks
    indices = torch.linspace(0, total - 1, steps=min(2, total)).round().to(torch.int32)
    ready = set[Tensor]()  # a network that stages share is prepared once: what was exported would change otherwise
    for stage in stages:
        example = {name: indices if name == INDICES else tensors[source] for name, source in stage.sources.items()}
        try:
            made = _run(stage, example, spec, prepared and ready.isdisjoint(stage.network.parameters()))
        except CascadertError:
            raise
        except Exception as error:  # the network is the user's code
            found = f"failed on an input of {_size(stage, example)}: {type(error).__name__}: {error}"
            raise NetworkError(f"stage '{stage.name}'", found, _remedy(stage)) from error
        tensors |= {f"{stage.name}.{name}": value for name, value in made.items()}
        ready.update(stage.network.parameters())
        yield stage, example


def network_inputs(stage: Stage, example: Example) -> tuple[Tensor, ...]:
    """Return what the stage's network sees of an example."""
    with torch.inference_mode():
        return stage.network_inputs(*example.values())


def _run(stage: Stage, example: Example, spec: CascadeSpec, prepared: bool) -> Example:
    if prepared and _is_random(stage, spec):
        inputs = [tensor.clone() for tensor in network_inputs(stage, example)]
        prepare(f"stage '{stage.name}'", stage.network, inputs, lambda answer: stage.named(answer).get(LOGITS))
    answers: list[Any] = []
    watch = stage.network.register_forward_hook(lambda _network, _inputs, answer: answers.append(answer))
    try:
        with torch.inference_mode():
            made = stage(*example.values())
    finally:
        watch.remove()
    if not all(bool(value.isfinite().all()) for answer in answers for value in stage.named(answer).values()):
        raise NetworkError(stage.subject, "returns NaN or infinity on a street scene", "check its weights")
    return dict(zip(stage.output_names, made, strict=True))


def _is_random(stage: Stage, spec: CascadeSpec) -> bool:
    if next(stage.network.parameters(), None) is None:
        return False
    if stage.spec.network is None:
        return stage.spec.weights is None
    return next(network.weights for network in spec.networks if network.name == stage.spec.network) is None


def _size(stage: Stage, example: Example) -> str:
    shapes = [list(tensor.shape) for tensor in network_inputs(stage, example)]
    if not stage.spec.reads:
        return f"{tuple(shapes[0][2:])} pixels"
    return ", ".join(map(str, shapes))


def _remedy(stage: Stage) -> str:
    if not stage.spec.reads:
        return "mend the network, scale, block or halo"
    blocks = stage.wiring.input == "blocks"
    before, after = (["pixels"], []) if blocks else ([], ["the mask of blocks"] if stage.wiring.rows_of else [])
    return f"mend the network or reads: it is given {', '.join([*before, *stage.spec.reads, *after])}"
