from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hemodist.config.training import ModelConfig
from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError
from hemodist.models.network import build_network
from hemodist.scoring.heat_maps import Masks, heat_maps, on_mask, pixel_maps, pointing_game, region_maps, target_layer


class Brightness(nn.Module):
    """Says `any` where the first window is bright and `subdural` where the second one is."""

    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(3, 2, 4, stride=4, bias=False)
        self.relu = nn.ReLU()
        self.head = nn.Linear(2, len(LABELS))
        with torch.no_grad():
            self.look.weight.zero_()
            self.look.weight[0, 0] = self.look.weight[1, 1] = 1 / 16
            self.head.weight.zero_()
            self.head.bias.zero_()
            self.head.weight[0, 0] = self.head.weight[LABELS.index("subdural"), 1] = 1.0

    def forward(self, images):
        return self.head(self.relu(self.look(images)).mean(dim=(2, 3)))


def bright(channel, rows, columns, size=96):
    image = torch.zeros(1, 3, size, size)
    image[0, channel, rows, columns] = 3.0
    return image


@pytest.mark.parametrize(("top", "left"), [(8, 60), (70, 12), (40, 40)])
def test_the_peak_lies_on_what_speaks_for_the_label(top, left):
    network = Brightness().eval()
    where = slice(top, top + 12), slice(left, left + 12)
    images = torch.cat([bright(0, *where) + bright(1, slice(0, 4), slice(0, 4))])
    heat = heat_maps(network, images, "any", target_layer(network, 96))[0]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert top <= row < top + 12
    assert left <= column < left + 12
    assert heat.max() == pytest.approx(1.0)
    assert heat.min() >= 0.0
    other = heat_maps(network, images, "subdural", target_layer(network, 96))[0]
    assert np.unravel_index(other.argmax(), other.shape) < (6, 6)


def test_a_map_of_nothing_is_zero_and_not_nan():
    network = Brightness().eval()
    heat = heat_maps(network, torch.zeros(2, 3, 96, 96), "epidural", "relu")
    assert heat.shape == (2, 96, 96)
    assert (heat == 0).all()


def test_explaining_changes_neither_the_network_nor_its_gradients():
    network = Brightness().eval()
    before = [p.clone() for p in network.parameters()]
    heat_maps(network, bright(0, slice(0, 9), slice(0, 9)), "any", "relu")
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert not network.training


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        ("resnet18", 96, "layer4"),
        ("resnet18", 32, "layer3"),
        ("alexnet", 256, "features"),
        ("densenet121", 96, "features"),
    ],
)
def test_the_layer_is_the_last_one_with_more_than_one_cell(name, size, layer):
    network = build_network(ModelConfig(name=name, image_size=size))
    network.train()
    assert target_layer(network, size) == layer
    assert network.training


def test_both_maps_are_scaled_and_their_product_is_the_heat_map():
    network = Brightness().eval()
    images = torch.rand(3, 3, 96, 96)
    region, pixel = region_maps(network, images, "any", "relu"), pixel_maps(network, images, "any")
    for maps in (region, pixel):
        assert maps.shape == (3, 96, 96)
        assert maps.min() >= 0
        assert maps.max(axis=(1, 2)) == pytest.approx(1.0)
    product = region * pixel
    expected = product / product.max(axis=(1, 2), keepdims=True)
    assert heat_maps(network, images, "any", "relu") == pytest.approx(expected, abs=1e-6)


def test_a_network_without_maps_is_named():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 6))
    with pytest.raises(ConfigError, match="no layer that gives maps"):
        target_layer(flat, 32)


def test_a_peak_is_looked_up_in_a_finer_mask():
    heat = np.zeros((8, 8), np.float32)
    heat[2, 5] = 1
    mask = np.zeros((64, 64), bool)
    mask[16:24, 40:48] = True
    assert on_mask(heat, mask)
    assert not on_mask(heat.T, mask)


def test_the_pointing_game_counts_hits_and_says_what_chance_would_give():
    hits = np.array([True, True, False, True])
    found = pointing_game(hits, ~hits, np.array([0.01, 0.03, 0.02, 0.02]), np.array([5, 5, 9, 9]), "layer4")
    assert (found.hits, found.cases, found.layer, found.coarse) == (3, 4, "layer4", 0.25)
    assert found.share.value == 0.75
    assert found.share.low <= 0.75 <= found.share.high
    assert found.chance == pytest.approx(0.02)


def test_masks_are_read_by_key_and_what_is_none_is_named(tmp_path):
    with pytest.raises(ConfigError, match="holds no mask"):
        Masks(str(tmp_path))
    masks = np.zeros((5, 16, 16), bool)
    masks[1, 3, 4] = masks[4, 5, 6] = True
    np.savez_compressed(tmp_path / "a.npz", masks=masks)
    (tmp_path / "b.npz").write_bytes(b"PK broken")
    np.savez_compressed(tmp_path / "c.npz", masks=np.zeros((5, 16, 12), bool))
    found = Masks(str(tmp_path))
    assert np.argwhere(found.of("a")).tolist() == [[3, 4], [5, 6]]
    assert found.of("unknown") is None
    for key in ("b", "c"):
        with pytest.raises(ConfigError, match=f"{key}.npz is no mask"):
            found.of(key)


def test_maps_of_many_images_are_those_of_each_alone():
    torch.manual_seed(0)
    network = build_network(ModelConfig(name="resnet18", image_size=64)).eval()
    images, layer = torch.randn(6, 3, 64, 64), target_layer(network, 64)
    together = heat_maps(network, images, "any", layer)
    alone = np.concatenate([heat_maps(network, image[None], "any", layer) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-4)
