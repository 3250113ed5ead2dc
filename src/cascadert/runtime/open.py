"""From an artefact on disk to a running pipeline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack

from cascadert.bundle import Bundle, BundleManifest
from cascadert.deployment import Deployment
from cascadert.errors import DeploymentError
from cascadert.graph import Graph
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.placement import Placement, place


def open_pipeline(artefact: Bundle | Deployment, options: RuntimeOptions = RuntimeOptions()) -> Pipeline:
    """Load a bundle, or a deployment built for the CPU, with ONNX Runtime.

    Raises:
        InvalidRequest: options that do not fit the cascade or this machine.
        DeploymentError: a deployment for a GPU that is not this machine's.
        MissingExtra: what runs it is not installed.
        GraphError: ONNX Runtime refuses a graph.
    """
    manifest, graphs = _graphs(artefact)
    return open_graphs(manifest, graphs, options)


def open_graphs(
    manifest: BundleManifest, graphs: Mapping[str, Graph], options: RuntimeOptions = RuntimeOptions()
) -> Pipeline:
    """Run the graph of each stage, by name, with ONNX Runtime; see `open_pipeline`."""
    placement = place(manifest, options, sorted(os.sched_getaffinity(0)))
    executables = load_executables(graphs, placement)
    return Pipeline(manifest, executables, HostDevice(), options, placement.cpus)


def load_executables(graphs: Mapping[str, Graph], placement: Placement) -> dict[str, OnnxRuntimeExecutable]:
    """Load the graph of each stage, by name; all or none.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        GraphError: ONNX Runtime refuses a graph.
    """
    with ExitStack() as loaded:
        executables = {
            name: loaded.enter_context(
                OnnxRuntimeExecutable(name, graph, placement.threads[name], placement.cpus.get(name))
            )
            for name, graph in graphs.items()
        }
        loaded.pop_all()
    return executables


def _graphs(artefact: Bundle | Deployment) -> tuple[BundleManifest, Mapping[str, Graph]]:
    if isinstance(artefact, Bundle):
        return artefact.manifest, artefact.graphs
    built_for, manifest = artefact.manifest.built_for, artefact.manifest.bundle
    if built_for.backend != "onnxruntime":
        raise DeploymentError(
            str(artefact.path),
            f"was built for {built_for.target} ({built_for.backend}), which this version builds but does not execute",
            "run the bundle, or a deployment for the target cpu",
        )
    graphs = {
        stage.name: Graph(
            artefact.engine(stage.name),
            tuple(entry.spec() for entry in stage.inputs),
            tuple(entry.spec() for entry in stage.outputs),
            "onnxruntime",
        )
        for stage in manifest.stages
    }
    return manifest, graphs
