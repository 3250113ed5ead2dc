"""What the two-stage system gives at a threshold, against algorithm 1 done by hand, and as the exported cascade."""

from pathlib import Path

import numpy as np
import pytest
import torch
from files import load_weights, save_weights
from street_data import Data
from torch.nn import functional
from trainer import Schedule, TrainOptions
from two_stage import Form, Second, train_first, train_second
from two_stage_measure import Prediction, curve, predict, probabilities, quality

from cascadert.export.compile import export_bundle
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.results import Submission

FORM = Form(size=(64, 64), ratio=2, width=0.125)
RUN = TrainOptions(Schedule(10, warm_up=1), bfloat16=False)
SPEC = """
name = "two-stage-recipe"
classes = { names = ["other", "car"], palette = [[0, 0, 0], [64, 0, 128]] }
frame = { height = 64, width = 64 }
grid = { block = [32, 32] }

[[stages]]
name = "low"
model = "two-stage"
args = { net = "unet", role = "first", backbone = "resnet18", width = 0.125 }
weights = "first.safetensors"
input_size = [32, 32]
preprocessing = { mean = [0, 0, 0], std = [1, 1, 1] }
upsample = "nearest"
score = "triangular"
emit = ["labels", "scores", "order", "features"]

[[stages]]
name = "patches"
model = "two-stage"
args = { net = "unet", role = "second", backbone = "resnet18", width = 0.125 }
weights = "second.safetensors"
preprocessing = { mean = [0, 0, 0], std = [1, 1, 1] }
reads = ["low.features"]
select = { policy = "threshold", theta = THETA }
"""


def prepared(count: int = 3) -> Data:
    """Noise, brighter where the class is; the last row is unknown."""
    rng = np.random.default_rng(5)
    labels = np.zeros((count, 64, 64), np.uint8)
    for index, one in enumerate(labels):
        one[8 * index : 8 * index + 30, 20:44] = 1
        one[63:] = 255
    images = rng.integers(0, 150, (count, 64, 64, 3)) + 100 * (labels == 1)[..., None]
    return Data(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels))


def test_patches_above_the_threshold_are_refined_and_no_others() -> None:
    scores = torch.tensor([[0.25, 0.3, 0.0, 1.0]])
    prediction = Prediction(torch.zeros(1, 4, 6), torch.ones(1, 4, 6), scores, 2)
    merged = prediction.merged(0.25)  # strict: the patch at 0.25 stays
    assert merged[0, :2].tolist() == [[0, 0, 0, 1, 1, 1]] * 2
    assert merged[0, 2:].tolist() == [[0, 0, 0, 1, 1, 1]] * 2
    assert torch.equal(prediction.merged(1.0), prediction.low)
    assert torch.equal(prediction.merged(-1.0), prediction.refined)


def test_quality_counts_by_hand() -> None:
    found = torch.tensor([[[0.9, 0.5, 0.1, 0.9]], [[0.0, 0.0, 0.0, 0.0]]])
    truth = torch.tensor([[[1, 0, 1, 255]], [[0, 0, 0, 0]]], dtype=torch.uint8)
    # image 1: 1 hit, 2 found, 2 true: (2 + 1) / (4 + 1); image 2: nothing to find and nothing found: 1
    assert quality(found, truth) == {"dice": 0.8, "iou": pytest.approx(1 / 3, abs=1e-4)}


def test_prediction_is_algorithm_1() -> None:
    form = Form(size=(64, 64), ratio=4, net="segnet", width=0.125)
    torch.manual_seed(0)
    first, second, images = form.first().eval(), form.second().eval(), prepared(1).images
    found = predict(first, second, images, 4)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        one = first(functional.interpolate(pixels, size=(16, 16), mode="bilinear"))
        # the patch of row 2, column 1: 16 pixels of the image, 4 of the first network's maps
        two = second(pixels[:, :, 32:48, 16:32], one["features"][:, :, 8:12, 4:8])
    p = one["logits"].sigmoid()
    assert torch.equal(found.low, p[:, 0].repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert torch.allclose(found.refined[:, 32:48, 16:32], two[:, 0].sigmoid(), atol=1e-5)
    assert float(found.scores[0, 9]) == pytest.approx(
        float((1 - 2 * (0.5 - p[0, 0, 8:12, 4:8]).abs()).mean()), abs=1e-5
    )


def test_a_curve_goes_from_the_first_network_to_all_patches() -> None:
    torch.manual_seed(0)
    data = prepared()
    found = predict(FORM.first(), FORM.second(context=False), data.images, 2)
    none, every = curve(found, data, (1.0, -1.0))
    assert none == {"threshold": 1.0, **quality(found.low, data.labels), "patches": 0}
    assert every == {"threshold": -1.0, **quality(found.refined, data.labels), "patches": 4}


def test_the_single_network_sees_whole_images() -> None:
    form = Form(size=(64, 64), ratio=1, width=0.125)
    torch.manual_seed(0)
    network, data = form.first(), prepared()
    assert form.seen == (64, 64)
    assert torch.equal(probabilities(network, data.images), predict(network, form.second(False), data.images, 1).low)


@pytest.mark.slow
def test_the_exported_cascade_gives_the_labels_of_the_recipe(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, first, second = prepared(4), FORM.first(), FORM.second()
    train_first(first, FORM, data, RUN)
    save_weights(first, tmp_path / "first.safetensors")
    load_weights(first, tmp_path / "first.safetensors")
    train_second(second, first, FORM, data, Second(), RUN)
    save_weights(second, tmp_path / "second.safetensors")
    load_weights(second, tmp_path / "second.safetensors")

    found = predict(first, second, data.images, FORM.ratio)
    ordered = found.scores.flatten().sort().values
    theta = float(ordered[7:9].mean())  # half of all patches, and none on the threshold
    assert float(ordered[8] - ordered[7]) > 1e-5
    (tmp_path / "spec.toml").write_text(SPEC.replace("THETA", str(theta)))
    bundle = export_bundle(tmp_path / "spec.toml", tmp_path / "bundle")
    with open_pipeline(bundle, RuntimeOptions(threads=1)) as pipeline:
        results = list(pipeline.stream(Submission(np.ascontiguousarray(image)) for image in data.images.numpy()))

    assert [result.runs[1].n for result in results] == found.chosen(theta).sum(1).tolist()
    merged = found.merged(theta).numpy()
    labels = np.stack([np.asarray(result.labels).reshape(64, 64) for result in results])
    clear = np.abs(merged - 0.5) > 1e-4  # a tie may be either
    assert clear.mean() > 0.99 and (labels == (merged >= 0.5))[clear].all()
    assert 0 < labels.mean() < 1
    apart = found.merged(1.0).numpy() >= 0.5
    assert (apart != (merged >= 0.5)).any()  # the patches did something
