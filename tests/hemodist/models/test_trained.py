"""A checkpoint that does not belong to the data, or to this hemodist, is refused with what is wrong and what helps."""

from __future__ import annotations

import pytest
import torch

from hemodist.config.data import AugmentConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError
from hemodist.models.checkpoint_file import CheckpointError
from hemodist.models.trained import check_fits, mean_logits, open_trained, views
from tests.support.checkpoints import SHARDING, make_checkpoint, network_of, run_of
from tests.support.dataset import make_dataset


def test_the_network_gives_what_the_saved_one_gave(tmp_path):
    trained = open_trained(str(make_checkpoint(tmp_path / "run")))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(trained.network(images), network_of(run_of()).eval()(images))
    assert trained.step == 7
    assert trained.sharding == SHARDING


def state(**tensors):
    return network_of(run_of()).state_dict() | tensors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["fracture", "edema"]}, "was trained on the labels fracture, edema; this hemodist knows any"),
        ({"scored": state(**{"fc.weight": torch.zeros(14, 512), "fc.bias": torch.zeros(14)})},
         "gives 14 outputs, this hemodist has 6 labels"),
        ({"scored": state(**{"conv1.weight": torch.zeros(64, 1, 7, 7)})},
         "takes images of 1 channels, hemodist's networks take 3"),
        ({"scored": {"weight": torch.zeros(1)}}, "does not hold the weights of resnet18"),
        ({"scored": state(**{"layer1.0.conv1.weight": torch.zeros(64, 64, 5, 5)})}, "layer1.0.conv1.weight"),
        ({"prevalence": [0.1, 0.2]}, "records the prevalence of 2 labels, not 6"),
        ({"prevalence": None}, "lacks prevalence"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_label_set_channel_count_or_version_is_refused(tmp_path, changes, message):
    where = make_checkpoint(tmp_path / "run", **changes)
    with pytest.raises(CheckpointError, match=message):
        open_trained(str(where))


def test_a_damaged_checkpoint_is_refused(tmp_path):
    folder = make_checkpoint(tmp_path / "run")
    (file,) = (folder / "checkpoints").glob("*.pt")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    for where in (folder, file):
        with pytest.raises(CheckpointError, match=r"SHA-256|no whole checkpoint"):
            open_trained(str(where))
    stray = tmp_path / "stray.pt"
    stray.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        open_trained(str(stray))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": SHARDING["windows"][:1]}, r"trained on 1 channel \(brain 40/80\), .* has 3 channels"),
        ({"size": 512}, "slices with size 512, .* has 32"),
        ({"windows": [{"name": "bone", "center": 600.0, "width": 2800.0}] * 3}, "windows bone 600/2800"),
        ({"crop_head": True}, "crop_head True"),
    ],
)
def test_a_data_set_of_other_pictures_is_refused(tmp_path, change, message):
    dataset = DataSet.open(str(make_dataset(tmp_path / "data", samples=10)))
    sharding = SHARDING | dataset.manifest.config | {"crop_head": False} | change
    trained = open_trained(str(make_checkpoint(tmp_path / "run", sharding=sharding)))
    with pytest.raises(ConfigError, match=message):
        check_fits(trained, dataset)


def test_another_compression_is_no_other_picture(tmp_path):
    dataset = DataSet.open(str(make_dataset(tmp_path / "data", samples=10)))
    sharding = dataset.manifest.config | {"encoding": "jpeg", "quality": 95}
    check_fits(open_trained(str(make_checkpoint(tmp_path / "run", sharding=sharding))), dataset)


def test_views_are_the_flips_that_training_drew():
    assert views(AugmentConfig(flip_horizontal=0.5)) == ((), (3,))
    assert views(AugmentConfig(flip_horizontal=0.5, flip_vertical=0.1)) == ((), (2,), (3,), (3, 2))
    with pytest.raises(ConfigError, match="trained without flips"):
        views(AugmentConfig(rotation_degrees=10))


def test_mean_logits_are_those_of_the_mean_probability_in_the_tails_too():
    torch.manual_seed(0)
    logits = [torch.randn(5, len(LABELS)) * 4 for _ in range(3)]
    mean = torch.stack([one.double().sigmoid() for one in logits]).mean(0)
    assert torch.allclose(mean_logits(logits).sigmoid(), mean, atol=1e-12)
    far = torch.full((1, 6), -80.0)
    assert torch.allclose(mean_logits([far, far]), far.double())
    assert torch.isfinite(mean_logits([far * 20, -far * 20])).all()
