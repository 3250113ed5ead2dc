"""What X14 runs on: recordings, and exits whose decisions are hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from street_data import Data

from cascadert.bundle import Bundle, read_bundle
from cascadert.calibration.refit import Recording, measure_reference
from cascadert.calibration.stage_runs import GraphRunner
from cascadert.export.lowering import lower
from cascadert.export.rewire import with_thetas, write_rewired


def recording(data: Data, every: int) -> Recording:
    """Return one of `every` frames with its labels."""
    images, labels = data.images.numpy()[::every], data.labels.numpy()[::every]
    return Recording([{"frame": image[None]} for image in images], [truth[None] for truth in labels])


def at_medians(bundle: Bundle, train: Recording, path: Path) -> Bundle:
    """Return the bundle with every theta at the median of its scores on some frames, or what was written before."""
    if path.exists():
        return read_bundle(path)
    runners = {name: GraphRunner(name, lower(graph, "onnxruntime"), 1) for name, graph in bundle.graphs.items()}
    decided = [stage.name for stage in bundle.manifest.stages if stage.select is not None]
    everywhere = with_thetas(bundle.manifest, dict.fromkeys(decided, -1.0))
    scores = measure_reference(everywhere, runners, train, "blocks").scores
    medians = {name: float(np.median(np.concatenate(list(found)))) for name, found in scores.items()}
    return write_rewired(bundle, with_thetas(bundle.manifest, medians), path)
