"""Who reads what: the stages of a specification with every default filled in, and what they may not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cascadert.stage_spec import ENTROPY, LABELS, LOGITS, ORDER, SCORES, NetworkSpec, StageInput, StageSpec

_OF_FRAMES: dict[str, object] = {"scale": 1.0, "input_size": None}
_OF_BLOCKS: dict[str, object] = {"halo": 0, "merge": "owner"}
_BINARY = ("triangular", "binary-entropy", "one-term")


@dataclass(frozen=True)
class Wiring:
    """One stage among the others.

    Attributes:
        input: what its network sees: whole frames, selected blocks, or tensors of other stages.
        after: the stage whose labels stand for its own where it is skipped, whose scores decide about it, and whose
            blocks it refines; none for the first.
        emit: its outputs.
        rows_of: the stage whose selected blocks the rows of a carried tensor are, where it reads one.
        needs: the stages without which it cannot run.
    """

    input: StageInput
    after: str | None
    emit: tuple[str, ...]
    rows_of: str | None
    needs: frozenset[str]


def wire(stages: Sequence[StageSpec], networks: Sequence[NetworkSpec], classes: int) -> dict[str, Wiring]:
    """Fill in defaults and check that the stages fit together.

    Raises:
        ValueError: naming the stage and the field.
    """
    _check_networks(stages, networks)
    found: dict[str, Wiring] = {}
    of_frames = {stage.name for stage in stages if stage.score.measure == "confidence"}
    for index, stage in enumerate(stages):
        wiring = _wire(stage, stages[index + 1 :], found)
        _check_fields(stage, wiring, classes)
        _check_reads(stage, wiring, found)
        if wiring.input == "blocks" and wiring.after in of_frames:
            raise ValueError(f"stage '{stage.name}' refines blocks: '{wiring.after}' scores the frame as a whole")
        found[stage.name] = wiring
    if not any(LABELS in wiring.emit for wiring in found.values()):
        raise ValueError("no stage emits labels")
    return found


def _wire(stage: StageSpec, later: Sequence[StageSpec], earlier: Mapping[str, Wiring]) -> Wiring:
    kind: StageInput = stage.input or ("blocks" if earlier else "frame")
    labelled = [name for name, wiring in earlier.items() if LABELS in wiring.emit]
    after = stage.after if stage.after is not None else (labelled[-1] if labelled else None)
    if after is not None and after not in earlier:
        raise ValueError(f"stage '{stage.name}': after = \"{after}\" is no earlier stage, of {list(earlier)}")
    if stage.after is not None and after not in labelled:
        raise ValueError(f"stage '{stage.name}': after = \"{after}\" emits no labels")
    sources = [name.split(".", 1)[0] for name in stage.reads]
    rows = {name for name in sources if name in earlier and earlier[name].input == "blocks"}
    if len(rows) > 1:
        raise ValueError(f"stage '{stage.name}' reads rows of several selections: {sorted(rows)}")
    rows_of = rows.pop() if rows else None
    needs = set(sources)
    if kind == "blocks" and after is not None:
        needs.add(after)
    if rows_of is not None:
        followed = earlier[rows_of].after
        needs |= {followed} if followed is not None else set()
    return Wiring(kind, after, _emitted(stage, kind, later), rows_of, frozenset(needs))


def _emitted(stage: StageSpec, kind: StageInput, later: Sequence[StageSpec]) -> tuple[str, ...]:
    """Return what a stage emits: by default labels, with scores where a decision is made on them."""
    if stage.emit is not None:
        return stage.emit
    nearest = True
    for other in later:
        if other.select is not None and (other.after == stage.name or (other.after is None and nearest)):
            return LABELS, SCORES, ORDER
        nearest &= other.emit is not None and LABELS not in other.emit
    return (LABELS, SCORES, ORDER) if kind == "frame" else (LABELS,)


def _check_networks(stages: Sequence[StageSpec], networks: Sequence[NetworkSpec]) -> None:
    known = [network.name for network in networks]
    if len(set(known)) < len(known):
        raise ValueError(f"networks need distinct names, found {known}")
    for stage in stages:
        if stage.network is not None and stage.network not in known:
            raise ValueError(f"stage '{stage.name}': network = \"{stage.network}\" is none of [[networks]] {known}")
    for name in known:
        if not any(stage.network == name for stage in stages):
            raise ValueError(f"no stage uses network '{name}': remove it")


def _check_fields(stage: StageSpec, wiring: Wiring, classes: int) -> None:
    kind, name = wiring.input, stage.name
    if wiring.after is None and kind == "blocks":
        hint = ', or input = "carried", to see what it reads as a whole' if stage.reads and stage.input is None else ""
        raise ValueError(f"stage '{name}' refines blocks: it needs a stage before it that emits labels{hint}")
    if wiring.after is None and stage.select is not None:
        raise ValueError(f"stage '{name}' comes after no stage with labels and scores, so no select")
    if kind == "blocks" and stage.select is None:
        raise ValueError(f"stage '{name}' refines blocks: it needs select = {{ policy = ... }}")
    if wiring.rows_of is not None and stage.select is not None:
        raise ValueError(f"stage '{name}' reads rows of '{wiring.rows_of}', whose decision is its own too: no select")
    if stage.speculate and (stage.select is None or kind != "carried" or wiring.rows_of is not None):
        raise ValueError(f"stage '{name}': speculate is for a select before a stage that reads whole carried tensors")
    for field, default in ({} if kind == "frame" else _OF_FRAMES).items():
        if getattr(stage, field) != default:
            raise ValueError(f"stage '{name}' sees {_seen(kind)}: {field} belongs to stages that see whole frames")
    for field, default in ({} if kind == "blocks" else _OF_BLOCKS).items():
        if getattr(stage, field) != default:
            raise ValueError(f"stage '{name}' sees {_seen(kind)}: {field} belongs to stages that refine blocks")
    if kind == "carried" and not stage.reads:
        raise ValueError(f"stage '{name}' sees carried tensors: it needs reads = [\"stage.tensor\"]")
    if kind == "frame" and stage.reads:
        raise ValueError(f"stage '{name}' sees whole frames: no reads")
    if stage.halo and stage.reads:
        raise ValueError(f"stage '{name}': halo = {stage.halo} and reads: what is read lies under the block alone")
    if kind == "blocks" and {ENTROPY, LOGITS} & set(wiring.emit):
        raise ValueError(f"stage '{name}' refines blocks: it cannot emit entropy or logits")
    if stage.score.measure in _BINARY and classes != 2:
        raise ValueError(f"stage '{name}': score = \"{stage.score.measure}\" is for two classes, found {classes}")
    if stage.score.measure in ("confidence", "learned") and kind == "blocks":
        raise ValueError(f"stage '{name}' refines blocks: score = \"{stage.score.measure}\" is of whole frames")


def _seen(kind: StageInput) -> str:
    return {"frame": "whole frames", "blocks": "selected blocks", "carried": "carried tensors"}[kind]


def _check_reads(stage: StageSpec, wiring: Wiring, earlier: Mapping[str, Wiring]) -> None:
    for source in stage.reads:
        producer, tensor = source.split(".", 1)
        if producer not in earlier or tensor not in earlier[producer].emit:
            known = [f"{name}.{output}" for name, made in earlier.items() for output in made.emit]
            raise ValueError(f"stage '{stage.name}' reads '{source}', which no earlier stage emits; there are {known}")
        if tensor in (LABELS, SCORES, ORDER):
            raise ValueError(f"stage '{stage.name}' reads '{source}': networks read float32 maps, no {tensor}")
    if stage.select is not None and wiring.after is not None and SCORES not in earlier[wiring.after].emit:
        raise ValueError(f"stage '{stage.name}' selects by the scores of '{wiring.after}', which emits none")
