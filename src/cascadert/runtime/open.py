"""From an artefact on disk to a running pipeline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from cascadert.bundle import Bundle, BundleManifest
from cascadert.deployment import Deployment
from cascadert.errors import InvalidRequest
from cascadert.graph import Graph
from cascadert.runtime.devices.choose import open_gpu
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable
from cascadert.runtime.executables.tensorrt import load_tensorrt_stages, share_memory
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.placement import Placement, place


def open_pipeline(artefact: Bundle | Deployment, options: RuntimeOptions = RuntimeOptions()) -> Pipeline:
    """Load a bundle or a deployment: for a GPU with TensorRT, otherwise with ONNX Runtime.

    Raises:
        InvalidRequest: options that do not fit the cascade or this machine, or no GPU for engines that need one.
        DeploymentError: a deployment for another GPU than this machine's.
        MissingExtra: what runs it is not installed.
        GraphError: ONNX Runtime refuses a graph.
    """
    if isinstance(artefact, Deployment) and artefact.manifest.built_for.backend != "onnxruntime":
        return open_engines(artefact, options)
    if options.device not in ("auto", "host"):
        found = "takes engines, and this is run by ONNX Runtime on the CPU"
        raise InvalidRequest(
            f"device '{options.device}'", found, "build the bundle for that GPU, or leave the device out"
        )
    manifest, graphs = _graphs(artefact)
    return open_graphs(manifest, graphs, options)


def open_engines(deployment: Deployment, options: RuntimeOptions = RuntimeOptions()) -> Pipeline:
    """Run the engines of a deployment with TensorRT; see `open_pipeline`."""
    serial = options.mode == "serial"
    device = open_gpu("cuda" if options.device == "auto" else options.device, options.ordinal)
    with device.current(), ExitStack() as opened:
        opened.callback(device.close)
        stages = load_tensorrt_stages(deployment, device, replace(options.tensorrt, user_memory=serial))
        for stage in stages.values():
            opened.callback(stage.close)
        if serial:  # one after the other on one stream: one block of activation memory will do
            share_memory(stages.values(), device)
        pipeline = Pipeline(deployment.manifest.bundle, stages, device, options)
        opened.pop_all()
    return pipeline


def open_graphs(
    manifest: BundleManifest, graphs: Mapping[str, Graph], options: RuntimeOptions = RuntimeOptions()
) -> Pipeline:
    """Run the graph of each stage, by name, with ONNX Runtime; see `open_pipeline`."""
    placement = place(manifest, options, sorted(os.sched_getaffinity(0)))
    executables = load_executables(graphs, placement)
    with ExitStack() as opened:
        for executable in executables.values():
            opened.callback(executable.close)
        pipeline = Pipeline(manifest, executables, HostDevice(), options, placement.cpus)
        opened.pop_all()
    return pipeline


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
    manifest = artefact.manifest.bundle
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
