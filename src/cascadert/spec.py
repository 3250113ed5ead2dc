"""`CascadeSpec`: what a user writes, in TOML, and what it may say.

::

    name = "street"
    classes = "cityscapes"

    [frame]
    height = 1024
    width = 2048

    [grid]
    block = 256

    [[stages]]
    name = "fast"
    model = "enet"                      # or "package.module:callable", or "file.py:callable" beside this file
    args = { classes = 19 }
    weights = "enet.safetensors"

    [[stages]]
    name = "accurate"
    model = "pspnet-r50"
    args = { classes = 19 }
    weights = "pspnet.safetensors"
    halo = 64
    select = { policy = "threshold", theta = 0.5 }
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from cascadert.classes import CLASS_SETS, ClassSet
from cascadert.errors import SpecError
from cascadert.geometry import Grid
from cascadert.stage_spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LABELS,
    FrameRatePolicy,
    LatencyPolicy,
    Merge,
    NetworkSpec,
    PixelPair,
    Positive,
    Preprocessing,
    SelectPolicy,
    StageSpec,
    Strict,
    ThresholdPolicy,
    TopKPolicy,
)
from cascadert.wiring import Wiring, wire

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "RESERVED",
    "CascadeSpec",
    "Fit",
    "FrameRatePolicy",
    "FrameSpec",
    "GridSpec",
    "LatencyPolicy",
    "Merge",
    "NetworkSpec",
    "PixelFormat",
    "Preprocessing",
    "SelectPolicy",
    "StageSpec",
    "Strict",
    "ThresholdPolicy",
    "TopKPolicy",
    "load_spec",
    "parse_spec",
]

PixelFormat = Literal["rgb8", "bgr8", "rgba8", "nv12"]
Fit = Literal["none", "resize", "letterbox", "crop"]

RESERVED = frozenset({"frame", "upload", "download", "host"})  # what else has a row in a trace, or is a source
MAX_CLASSES = 255  # labels are uint8 and 255 means "ignore"


class FrameSpec(Strict):
    """The frames a cascade takes. `fit` says what a source of another size goes through ("none": it is refused)."""

    height: Positive
    width: Positive
    pixel_format: PixelFormat = "rgb8"
    cameras: Positive = 1
    fit: Fit = "none"

    @model_validator(mode="after")
    def _nv12_is_even(self) -> FrameSpec:
        if self.pixel_format == "nv12" and (self.height % 2 or self.width % 2):
            raise ValueError(f"nv12 needs an even height and width, found {self.height}x{self.width}")
        return self


class GridSpec(Strict):
    """Blocks in pixels: one number, or [height, width]. `stride` defaults to `block`: no overlap."""

    block: PixelPair
    stride: PixelPair | None = None


class CascadeSpec(Strict):
    """A whole cascade: frame, classes, grid, shared networks, and the stages in the order in which they run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    classes: ClassSet
    frame: FrameSpec
    grid: GridSpec | None = None
    networks: tuple[NetworkSpec, ...] = ()
    stages: Annotated[tuple[StageSpec, ...], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _named_class_set(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("classes"), str):
            name = data["classes"]
            if name not in CLASS_SETS:
                raise ValueError(f"classes must be one of {', '.join(CLASS_SETS)} or a table, found '{name}'")
            return {**data, "classes": CLASS_SETS[name]}
        return data

    @model_validator(mode="after")
    def _stages_fit_together(self) -> CascadeSpec:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names) or RESERVED & set(names):
            reserved = ", ".join(sorted(RESERVED))
            raise ValueError(f"stages need distinct names other than {reserved}, found {names}")
        _ = self.wiring
        for stage in self.stages:
            self.network_input_size(stage)
        return self

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes.names)

    def make_grid(self) -> Grid:
        """Return the grid of blocks; without one the frame is one block.

        Raises:
            GridError: blocks that do not fit the frame.
        """
        height, width = self.frame.height, self.frame.width
        grid = self.grid or GridSpec(block=(height, width))
        return Grid(height, width, grid.block, grid.stride or grid.block)

    @property
    def blocks(self) -> int:
        """Blocks of a frame, of all cameras: N * G.

        Raises:
            GridError: blocks that do not fit the frame.
        """
        return self.make_grid().size * self.frame.cameras

    @cached_property
    def wiring(self) -> dict[str, Wiring]:
        """What each stage reads, comes after and makes, defaults filled in; by its name."""
        return wire(self.stages, self.networks, len(self.classes.names))

    def network_input_size(self, stage: StageSpec) -> tuple[int, int]:
        """Height and width that a network which sees whole frames sees, from `input_size` or `scale`."""
        if stage.input_size is not None:
            if stage.scale != 1.0:
                raise ValueError(f"stage '{stage.name}' has both scale and input_size: keep one")
            return stage.input_size
        height, width = self.frame.height * stage.scale, self.frame.width * stage.scale
        if not (math.isclose(height, round(height)) and math.isclose(width, round(width))):
            raise ValueError(
                f"scale = {stage.scale} makes {height:g}x{width:g} pixels: set input_size = [height, width]"
            )
        return round(height), round(width)

    def until(self, last: str) -> CascadeSpec:
        """Return the cascade `<name>-until-<last>`, which ends with one stage: what that does not read is left out.

        A decision whose scores are no longer made is left out, too, so that the stage runs on every frame (paper 004,
        budgeted inference).

        Raises:
            SpecError: there is no such stage, or it makes no labels.
        """
        names = [stage.name for stage in self.stages]
        if last not in names:
            raise SpecError(f"until '{last}'", "is no stage", f"choose one of {', '.join(names)}")
        if LABELS not in self.wiring[last].emit:
            raise SpecError(f"until '{last}'", "makes no labels", "choose a stage that does")
        kept = {last}
        for stage in reversed(self.stages):
            if stage.name in kept:
                kept |= self.wiring[stage.name].needs
        return self.keeping(kept).model_copy(update={"name": f"{self.name}-until-{last}"})

    def keeping(self, names: Collection[str]) -> CascadeSpec:
        """Return the cascade of some of its stages.

        A decision whose scores are no longer made is left out, too: its stage runs wherever what it reads is there.
        Where labels that stood for others are left out, the nearest before them stand for those.

        Raises:
            SpecError: a stage that is kept needs one that is not, or none that is kept makes labels.
        """
        kept = [stage for stage in self.stages if stage.name in names]
        for stage in kept:
            for needed in sorted(self.wiring[stage.name].needs.difference(names)):
                raise SpecError(f"stage '{needed}'", f"is needed by '{stage.name}'", "keep it, or leave out both")
        if not any(LABELS in self.wiring[stage.name].emit for stage in kept):
            raise SpecError(f"stages {', '.join(names)}", "make no labels", "keep one that does")
        return self.with_stages(tuple(self._without_decision(stage, names) for stage in kept))

    def with_stages(self, stages: tuple[StageSpec, ...]) -> CascadeSpec:
        """Return the cascade with other stages, and of its shared networks those that they use."""
        used = {stage.network for stage in stages}
        networks = tuple(network for network in self.networks if network.name in used)
        fields = {name: getattr(self, name) for name in CascadeSpec.model_fields}
        return CascadeSpec.model_validate({**fields, "stages": stages, "networks": networks})

    def stand_in(self, name: str) -> str | None:
        """Return the tensor that stands for the labels of a stage where it is skipped; none where that cannot be."""
        after = self.wiring[name].after
        return f"{after}.{LABELS}" if after is not None and self._may_be_skipped(name) else None

    def _may_be_skipped(self, name: str) -> bool:
        """Whether a stage may not run on a frame: by its decision, or for lack of something to read."""
        decides = any(stage.name == name and stage.select is not None for stage in self.stages)
        return decides or any(self._may_be_skipped(needed) for needed in self.wiring[name].needs)

    def _without_decision(self, stage: StageSpec, kept: Collection[str]) -> StageSpec:
        wiring = self.wiring[stage.name]
        explicit: dict[str, Any] = {"input": wiring.input, "emit": wiring.emit}
        if stage.select is not None and wiring.input != "blocks" and wiring.after not in kept:
            explicit |= {"select": None, "speculate": False}
        after = wiring.after if wiring.after in kept else None
        return stage.model_copy(update={**explicit, "after": after})


def parse_spec(data: dict[str, Any], origin: str) -> CascadeSpec:
    """Validate a specification that is already a dictionary; `origin` names it in errors.

    Raises:
        SpecError: the first wrong field, what was found and what is allowed.
        GridError: blocks that do not fit the frame.
    """
    try:
        spec = CascadeSpec.model_validate(data)
    except ValidationError as error:
        raise _first_problem(error, origin) from error
    spec.make_grid()
    return spec


def load_spec(path: Path) -> CascadeSpec:
    """Read and validate a TOML specification.

    Raises:
        SpecError: an unreadable file, broken TOML, or a wrong field.
        GridError: blocks that do not fit the frame.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            str(path), f"cannot be read ({error.strerror})", "give the path of a cascade's TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError(str(path), f"is not valid TOML: {error}", "mend that line") from error
    return parse_spec(data, str(path))


def _first_problem(error: ValidationError, origin: str) -> SpecError:
    problem = error.errors(include_url=False)[0]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    found = repr(problem["input"])
    if problem["type"] == "missing":
        return SpecError(f"{origin}: {field}", "is missing", "add it")
    if problem["type"] == "extra_forbidden":
        return SpecError(f"{origin}: {field}", "is not a known field", "remove it or mend its spelling")
    if problem["type"] == "value_error":
        return SpecError(f"{origin}: {field or 'spec'}", problem["msg"].removeprefix("Value error, "), "mend the spec")
    short = found if len(found) < 60 else found[:57] + "..."
    return SpecError(f"{origin}: {field}", f"found {short}", problem["msg"][0].lower() + problem["msg"][1:])
