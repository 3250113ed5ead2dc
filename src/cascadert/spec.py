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
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cascadert.classes import CLASS_SETS, ClassSet
from cascadert.errors import SpecError
from cascadert.geometry import Grid

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PixelFormat = Literal["rgb8", "bgr8", "rgba8", "nv12"]
Fit = Literal["none", "resize", "letterbox", "crop"]
Merge = Literal["owner", "average"]
Channels = tuple[float, float, float]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
RESERVED = frozenset({"frame", "upload", "download", "host"})  # what else has a row in a trace, or is a source
MAX_CLASSES = 255  # labels are uint8 and 255 means "ignore"


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


# strict: "1024", true and 1024.0 are no numbers of pixels, and nothing is repaired silently.
Positive = Annotated[int, Field(gt=0, strict=True)]
PixelPair = Annotated[tuple[Positive, Positive], BeforeValidator(_pair)]


class Strict(BaseModel):
    """Base of everything that is read from disk: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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


class Preprocessing(Strict):
    """Pixels as the network was trained on them: (RGB / 255 - mean) / std, per channel."""

    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD

    @model_validator(mode="after")
    def _std_is_positive(self) -> Preprocessing:
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, found {list(self.std)}")
        return self


class ThresholdPolicy(Strict):
    """Refine every block whose score is above theta, strictly (paper 000, section 3)."""

    policy: Literal["threshold"] = "threshold"
    theta: Annotated[float, Field(strict=True)]


class TopKPolicy(Strict):
    """Refine the k blocks of the highest score, whatever it is."""

    policy: Literal["top-k"] = "top-k"
    k: Annotated[int, Field(ge=0, strict=True)]


class LatencyPolicy(Strict):
    """Refine as many blocks as fit into the budget, t_f + t_b(n) <= budget_ms; none at or below theta, if given."""

    policy: Literal["latency"] = "latency"
    budget_ms: Annotated[float, Field(gt=0, strict=True)]
    theta: Annotated[float, Field(strict=True)] | None = None


class FrameRatePolicy(Strict):
    """Refine every block above a theta that follows the load: 1000 / fps milliseconds per frame, theta_min at least."""

    policy: Literal["frame-rate"] = "frame-rate"
    fps: Annotated[float, Field(gt=0, strict=True)]
    theta_min: Annotated[float, Field(strict=True)] = 0.0


SelectPolicy = Annotated[ThresholdPolicy | TopKPolicy | LatencyPolicy | FrameRatePolicy, Field(discriminator="policy")]


class StageSpec(Strict):
    """One network and the decision before it. The first stage sees whole frames, the others selected blocks."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    model: str
    args: dict[str, Any] = {}
    weights: str | None = None
    preprocessing: Preprocessing = Preprocessing()
    scale: Annotated[float, Field(gt=0, strict=True)] = 1.0
    input_size: PixelPair | None = None
    emit_entropy: bool = False
    halo: Annotated[int, Field(ge=0, strict=True)] = 0
    merge: Merge = "owner"
    select: SelectPolicy | None = None


class CascadeSpec(Strict):
    """A whole cascade: frame, classes, grid, and the stages in the order in which they run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    classes: ClassSet
    frame: FrameSpec
    grid: GridSpec
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
        first, *others = self.stages
        if first.select is not None or first.halo or first.merge != "owner":
            raise ValueError(f"stage '{first.name}' is the first: it sees whole frames, so no select, halo or merge")
        for stage in others:
            if stage.select is None:
                raise ValueError(f"stage '{stage.name}' refines blocks: it needs select = {{ policy = ... }}")
            if stage.scale != 1.0 or stage.input_size is not None or stage.emit_entropy:
                raise ValueError(
                    f"stage '{stage.name}' refines blocks: scale, input_size, emit_entropy belong to the first"
                )
        self.network_input_size()
        return self

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes.names)

    def make_grid(self) -> Grid:
        """Return the grid of blocks.

        Raises:
            GridError: blocks that do not fit the frame.
        """
        return Grid(self.frame.height, self.frame.width, self.grid.block, self.grid.stride or self.grid.block)

    @property
    def blocks(self) -> int:
        """Blocks of a frame, of all cameras: N * G.

        Raises:
            GridError: blocks that do not fit the frame.
        """
        return self.make_grid().size * self.frame.cameras

    def network_input_size(self) -> tuple[int, int]:
        """Height and width that the first network sees, from `input_size` or `scale`."""
        first = self.stages[0]
        if first.input_size is not None:
            if first.scale != 1.0:
                raise ValueError(f"stage '{first.name}' has both scale and input_size: keep one")
            return first.input_size
        height, width = self.frame.height * first.scale, self.frame.width * first.scale
        if not (math.isclose(height, round(height)) and math.isclose(width, round(width))):
            raise ValueError(
                f"scale = {first.scale} makes {height:g}x{width:g} pixels: set input_size = [height, width]"
            )
        return round(height), round(width)


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
