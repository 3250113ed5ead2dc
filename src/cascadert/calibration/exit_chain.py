"""The exits of a bundle: stages that label, what lies between them, and the decisions that lead on."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from cascadert.bundle import FRAME, BundleManifest, StageEntry
from cascadert.calibration.walk import labelled_stages, refines_blocks
from cascadert.errors import InvalidRequest


@dataclass(frozen=True)
class Exit:
    """One exit.

    Attributes:
        name: the stage that makes its labels.
        segment: the stages that run between the exit before and this one, in order.
        way: all stages that it is made of, those of earlier segments included, but itself.
        decision: the stage before which the exit before decides whether to go on; none for the first exit.
        speculative: whether that stage is queued before the decision is known.
    """

    name: str
    segment: tuple[str, ...]
    way: frozenset[str]
    decision: str | None
    speculative: bool = False

    @property
    def stages(self) -> frozenset[str]:
        """All stages that its labels are made by."""
        return self.way | {self.name}


def exits_of(manifest: BundleManifest) -> tuple[Exit, ...]:
    """Return the exits of a cascade, in order.

    Every exit but the last must decide about whole frames, on a score from 0 to 1, whether to go on to the next; and no
    exit may read what another makes, so that any of them can be left out.

    Raises:
        InvalidRequest: a cascade of another kind, or one with fewer than two exits.
    """
    entries = {entry.name: entry for entry in manifest.stages}
    labelled = labelled_stages(manifest)
    blocks = [entry.name for entry in manifest.stages if refines_blocks(entry)]
    if blocks:
        raise _refusal(manifest, f"stage '{blocks[0]}' sees selected blocks, not whole frames")
    if len(labelled) < 2:
        raise _refusal(manifest, f"only {labelled[0]} makes labels, so that there is nothing to choose")
    found: list[Exit] = []
    for name in labelled:
        found.append(_exit(manifest, entries, found, name))
    idle = [name for name in entries if name not in found[-1].way and name not in labelled]
    if idle:
        raise _refusal(manifest, f"stage '{idle[0]}' leads to no exit")
    return tuple(found)


def _exit(manifest: BundleManifest, entries: Mapping[str, StageEntry], earlier: list[Exit], name: str) -> Exit:
    way, before = _way(entries, name), earlier[-1] if earlier else None
    for other in earlier:
        if other.name in way:
            raise _refusal(manifest, f"'{name}' reads what '{other.name}' makes")
    done: Set[str] = frozenset() if before is None else before.way
    if not done <= way or (before is not None and before.decision not in {None, *way}):
        raise _refusal(manifest, f"'{name}' does not begin where '{earlier[-1].name}' branches off")
    segment = tuple(stage for stage in entries if stage in way - done)
    deciding = [entries[stage] for stage in (*segment, name) if entries[stage].select is not None]
    if before is None and deciding:
        raise _refusal(manifest, f"stage '{deciding[0].name}' has a decision before the first exit")
    if before is None:
        return Exit(name, segment, way, None)
    if [stage.select.producer for stage in deciding if stage.select is not None] != [before.name]:
        raise _refusal(manifest, f"'{before.name}' does not decide whether to go on to '{name}'")
    (stage,) = deciding
    if stage.select is not None and stage.select.unit != "share":
        raise _refusal(manifest, f"the scores of '{before.name}' are bits, not from 0 to 1")
    return Exit(name, segment, way, stage.name, stage.speculative)


def _way(entries: Mapping[str, StageEntry], name: str) -> frozenset[str]:
    """Return every stage that one reads, directly or not."""
    sources = {entry.producer for entry in entries[name].inputs} - {FRAME}
    return frozenset(sources).union(*(_way(entries, source) for source in sources))


def _refusal(manifest: BundleManifest, found: str) -> InvalidRequest:
    remedy = "give a cascade whose exits decide about whole frames by their confidence, as examples/multi-exit-r50.toml"
    return InvalidRequest(f"exits of '{manifest.spec.name}'", found, remedy)
