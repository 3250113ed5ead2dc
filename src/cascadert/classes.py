"""Class names and colours: the sets that this field knows by heart, and the type for any other.

Sources: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016, table 1 (training
ids); the SegNet release of CamVid; the development kit of PASCAL VOC (Everingham et al.), whose colours are a rule.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

CLASS_NAMES: tuple[str, ...] = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
    "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip

PALETTE: tuple[tuple[int, int, int], ...] = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
    (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
    (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip

IGNORE_LABEL: int = 255

ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, TERRAIN = range(10)
SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(10, 19)


Channel = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Channel, Channel, Channel]


class ClassSet(BaseModel):
    """K class names and an RGB colour for each; label i is `names[i]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: Annotated[tuple[str, ...], Field(min_length=2, max_length=IGNORE_LABEL)]
    palette: tuple[Colour, ...]

    @model_validator(mode="after")
    def _one_colour_each(self) -> ClassSet:
        if len(self.names) != len(self.palette):
            raise ValueError(f"{len(self.names)} class names need as many colours, found {len(self.palette)}")
        return self


_CAMVID: dict[str, Colour] = {
    "sky": (128, 128, 128), "building": (128, 0, 0), "pole": (192, 192, 128), "road": (128, 64, 128),
    "pavement": (60, 40, 222), "tree": (128, 128, 0), "sign": (192, 128, 128), "fence": (64, 64, 128),
    "car": (64, 0, 128), "pedestrian": (64, 64, 0), "bicyclist": (0, 128, 192),
}  # fmt: skip

_VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table",
    "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "television",
)  # fmt: skip


def _voc_colour(label: int) -> Colour:
    """Spread the bits of a label over three channels, the lowest first, from the highest bit of each downwards."""
    red, green, blue = (sum((label >> (3 * i + c) & 1) << (7 - i) for i in range(8)) for c in range(3))
    return red, green, blue


CITYSCAPES = ClassSet(names=CLASS_NAMES, palette=PALETTE)
"""The 19 training classes of Cityscapes, by trainId."""

CAMVID = ClassSet(names=tuple(_CAMVID), palette=tuple(_CAMVID.values()))
"""The 11 classes of CamVid, in the order of the SegNet release."""

VOC = ClassSet(names=_VOC_NAMES, palette=tuple(map(_voc_colour, range(len(_VOC_NAMES)))))
"""The 21 classes of PASCAL VOC with its own colours; COCO's are often reduced to them, as in paper 004."""

CLASS_SETS = {"cityscapes": CITYSCAPES, "camvid": CAMVID, "voc": VOC}
