"""Bundles of whole cascades, for what runs as the product runs it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cascadert.bundle import Bundle, read_bundle
from cascadert.export.compile import export_bundle, export_spec
from experiments.cascade_clips import AccurateStage, Clip, FastStage
from experiments.cascade_stages import spec_of


def cascade_bundle(folder: Path, clip: Clip, fast: FastStage, accurate: AccurateStage) -> Bundle:
    """Export a cascade, or open what was exported there before."""
    spec = spec_of(clip, fast, accurate)
    files = (clip.fast_weights, accurate.weights or clip.accurate_weights)
    content = [spec.model_dump_json().encode(), *(path.read_bytes() for path in files)]
    output = folder / f"{clip.name}-bundle-{hashlib.sha256(b''.join(content)).hexdigest()[:12]}"
    return read_bundle(output) if output.exists() else export_spec(spec, Path(), output)


def exported(spec: Path, output: Path) -> Bundle:
    """Export a specification, or open what was exported there before."""
    return read_bundle(output) if output.exists() else export_bundle(spec, output)
