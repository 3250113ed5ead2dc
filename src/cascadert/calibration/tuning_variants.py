"""The same cascade with other blocks or another halo: other graphs, of the same networks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cascadert.bundle import Bundle
from cascadert.errors import BundleError, InvalidRequest
from cascadert.export.compile import ExportOptions, export_spec
from cascadert.spec import CascadeSpec, GridSpec, load_spec


@dataclass(frozen=True)
class VariantOptions:
    """Which variants to try.

    Attributes:
        blocks: sides of square blocks in pixels, side by side; none: the bundle's own grid.
        halos: of every stage that sees blocks; none: the bundle's own.
        spec: the specification's present path, where its networks moved since export.
    """

    blocks: tuple[int, ...] = ()
    halos: tuple[int, ...] = ()
    spec: Path | None = None


def variant_specs(spec: CascadeSpec, options: VariantOptions) -> tuple[CascadeSpec, ...]:
    """Return the specification of every block with every halo, once each.

    Raises:
        InvalidRequest: no stage sees blocks.
        GridError: blocks larger than the frame.
    """
    by_block = [stage.name for stage in spec.stages if spec.wiring[stage.name].input == "blocks"]
    if not by_block:
        remedy = "leave --block and --halo out"
        raise InvalidRequest(f"variants of '{spec.name}'", "no stage sees blocks", remedy)
    grids: list[GridSpec | None] = [GridSpec(block=(block, block)) for block in options.blocks]
    grids = grids or [spec.grid]
    variants = [_with(spec, grid, halo, by_block) for grid in grids for halo in options.halos or (None,)]
    return tuple(one for i, one in enumerate(variants) if one not in variants[:i])


def _with(spec: CascadeSpec, grid: GridSpec | None, halo: int | None, by_block: Collection[str]) -> CascadeSpec:
    update = {} if halo is None else {"halo": halo}
    stages = tuple(s.model_copy(update=update if s.name in by_block else {}) for s in spec.stages)
    fields = {name: getattr(spec, name) for name in CascadeSpec.model_fields}
    variant = CascadeSpec.model_validate({**fields, "grid": grid, "stages": stages})
    variant.make_grid()
    return variant


def make_variants(
    bundle: Bundle, options: VariantOptions, work: Path, say: Callable[[str], None] = lambda _: None
) -> Iterator[Bundle]:
    """Yield the bundle of each variant, exported into `work` where it is not the bundle itself.

    Raises:
        InvalidRequest: the networks are not where they were, and `spec` does not say where they are.
        BundleError: weights that are not those of the bundle.
        SpecError, NetworkError: the networks cannot be built again.
    """
    if not (options.blocks or options.halos):
        yield bundle
        return
    own = bundle.spec.make_grid(), _halos(bundle.spec)
    for number, spec in enumerate(variant_specs(bundle.spec, options)):
        if (spec.make_grid(), _halos(spec)) == own:
            yield bundle
            continue
        folder = networks_folder(bundle, options.spec)
        export = ExportOptions(random_weights=_seed(bundle))
        variant = export_spec(spec, folder, work / f"variant{number}", export, partial(_tell, say, number + 1))
        _check_weights(bundle, variant, folder)
        yield variant


def networks_folder(bundle: Bundle, spec: Path | None) -> Path:
    """Return the folder that paths to networks and weights count from; see `make_variants`."""
    if spec is not None:
        if load_spec(spec).name != bundle.spec.name:
            found = f"is of '{load_spec(spec).name}', and the bundle of '{bundle.spec.name}'"
            raise InvalidRequest(f"--spec {spec}", found, "give the specification that the bundle was exported from")
        return spec.parent.resolve()
    folder = Path(bundle.manifest.spec_folder)
    if not folder.is_dir():
        found = f"need the networks again, which were exported from {folder}, and that is not there"
        raise InvalidRequest("--block and --halo", found, "pass --spec with the specification's present path")
    return folder


def _tell(say: Callable[[str], None], number: int, stage: str) -> None:
    say(f"variant {number}: exporting {stage}")


def _halos(spec: CascadeSpec) -> tuple[int, ...]:
    return tuple(stage.halo for stage in spec.stages)


def _seed(bundle: Bundle) -> int | None:
    seeds = {stage.network.random_seed for stage in bundle.manifest.stages} - {None}
    return seeds.pop() if seeds else None


def _check_weights(bundle: Bundle, variant: Bundle, folder: Path) -> None:
    """Check that networks are the exported ones; made-up weights depend on what the network sees."""
    for old, new in zip(bundle.manifest.stages, variant.manifest.stages, strict=True):
        if old.network.random_seed is None and old.network.state_sha256 != new.network.state_sha256:
            found = f"the weights in {folder} are not the ones that were exported"
            raise BundleError(f"{bundle.path}: stage '{old.name}'", found, "export again, or restore them")
