"""Which stream each stage runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cascadert.device import Device, Stream
from cascadert.runtime.plan import Plan


@dataclass(frozen=True)
class Lanes:
    """The streams: one for each stage, and one for copies each way. In serial mode they are all one stream."""

    stages: Mapping[str, Stream]
    upload: Stream
    download: Stream

    @property
    def side_by_side(self) -> bool:
        """Whether stages have streams of their own."""
        return self.upload is not self.download

    def all(self) -> list[Stream]:
        """Return each stream once."""
        return list({id(stream): stream for stream in (*self.stages.values(), self.upload, self.download)}.values())


def make_lanes(plan: Plan, device: Device, mode: str, cpus: Mapping[str, frozenset[int]]) -> Lanes:
    """Make the streams. Earlier stages have a higher priority: the next frame's decision must not wait for refining."""
    if mode == "serial":
        only = device.create_stream("serial")
        return Lanes({stage.name: only for stage in plan.stages}, only, only)
    count = len(plan.stages)
    stages = {
        stage.name: device.create_stream(stage.name, count - 1 - i, cpus.get(stage.name))
        for i, stage in enumerate(plan.stages)
    }
    return Lanes(stages, device.create_stream("upload", count), device.create_stream("download", count))
