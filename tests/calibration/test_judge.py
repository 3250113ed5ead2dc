"""How far a form of a stage is from fp32."""

from typing import Any

import numpy as np

from cascadert.bundle import Bundle
from cascadert.calibration.judge import StageJudge
from cascadert.calibration.precision_rows import policies_for
from cascadert.calibration.stage_runs import GraphRunner, run_cascade
from cascadert.export.precision import lower_to
from cascadert.pixels import planes_from_rgb


def test_a_middle_stage_is_judged_by_the_blocks_that_it_scores(chain_bundle: Bundle, toy_frames: Any) -> None:
    graphs = {name: lower_to(graph, "onnxruntime") for name, graph in chain_bundle.graphs.items()}
    runners = {name: GraphRunner(name, graph, 1) for name, graph in graphs.items()}
    planes = planes_from_rgb(toy_frames[:1], "nv12")
    policies = policies_for(chain_bundle.manifest, "fp32")
    middle = chain_bundle.manifest.stages[1].name
    trace = run_cascade(chain_bundle.manifest, runners, planes, policies, {}).stages[middle]
    assert np.isneginf(trace.outputs["scores"]).any(), "blocks that it did not refine have no score"
    judge = StageJudge(middle, [trace], 1)
    assert judge.judge(graphs[middle]).score_error == 0.0
    rounded = judge.judge(lower_to(chain_bundle.graphs[middle], "onnxruntime", "fp16"))
    assert rounded.score_error is not None
    assert 0 < rounded.score_error < 0.01
