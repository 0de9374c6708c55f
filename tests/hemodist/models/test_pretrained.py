"""Training starts from the weights that it is told to, whole ones that fit, or says what to do."""

from __future__ import annotations

import hashlib
import io
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models import Weights, WeightsEnum

from hemodist.config.recipes import RECIPES
from hemodist.config.training import ModelConfig
from hemodist.doctor import node_checks
from hemodist.errors import ConfigError
from hemodist.loading.pixels import MEAN, STD
from hemodist.models import pretrained
from hemodist.models.network import build_network, check_model, last_linear, untrained_network
from hemodist.models.pretrained import check_pretrained, load_pretrained

CONFIGS = {recipe().model.name: recipe().model for recipe in RECIPES if recipe().model.weights != "none"}


@pytest.fixture(autouse=True)
def no_copies(tmp_path, monkeypatch):
    """PyTorch's cache is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@contextmanager
def served(content: bytes, *, promised: int = 0, name: str = "net-{digits}.pth") -> Iterator[tuple[str, list[str]]]:
    """A server of one file: its URL, and what was asked for. It promises so many bytes more than it sends."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.command)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) + promised))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        digits = hashlib.sha256(content).hexdigest()[:8]
        yield f"http://127.0.0.1:{server.server_port}/models/{name.format(digits=digits)}", asked
        server.shutdown()


def offer(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let torchvision say that every network's weights are there."""
    offered = WeightsEnum("Offered", {"DEFAULT": Weights(url, transforms=None, meta={})})
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: offered)


def saved(state: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def as_published(name: str) -> dict[str, torch.Tensor]:
    """A state_dict as torchvision's files are: of 1,000 classes, the older ones without what newer versions added.

    Each tensor is one number, its place, which takes no room.
    """
    with torch.device("meta"):
        own = torchvision.models.get_model(name, weights=None).state_dict()
    dotted = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in own.items()}
    kept = {key: value for key, value in dotted.items() if not key.endswith("num_batches_tracked")}
    return {key: torch.full((1,), float(at)).expand(value.shape) for at, (key, value) in enumerate(kept.items())}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_torchvision_publishes_loads_through_every_recipes_path_all_but_the_head(name, monkeypatch):
    config = CONFIGS[name]
    state = as_published(name)
    with served(saved(state)) as (url, asked):
        offer(monkeypatch, url)
        check_pretrained(config)
        with torch.device("meta"):
            network = untrained_network(config)
        network.to_empty(device="cpu")
        head = last_linear(network)
        for value in network.get_submodule(head).parameters():
            torch.nn.init.constant_(value, -1.0)
        load_pretrained(network, config)
        assert asked == ["GET"]  # by the driver; the worker of this node has read the copy
    own = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert len(own) == len(state)
    for (key, value), (published, expected) in zip(own.items(), state.items(), strict=True):
        assert key.replace(".", "") == published.replace(".", "")
        assert (value == (-1.0 if key.startswith(head) else expected.flatten()[0])).all(), key
    assert own[f"{head}.weight"].shape[0] == 6


def test_every_recipe_but_the_small_ones_begins_with_imagenet_on_three_channels_normalised_as_imagenet():
    for recipe in RECIPES:
        model = recipe().model
        assert model.weights == ("none" if recipe.__name__ in ("demo", "debug") else "imagenet")
        assert model.channels == 3
        for weights in torchvision.models.get_model_weights(model.name):
            transforms = weights.transforms()
            assert (tuple(transforms.mean), tuple(transforms.std)) == (MEAN, STD)


@pytest.mark.parametrize(
    ("bad", "said"),
    [({"name": "net-00000000.pth"}, "does not have the SHA-256"), ({"promised": 5}, "broke off")],
)
def test_a_download_that_is_not_whole_is_refused_and_leaves_nothing(bad, said, monkeypatch, tmp_path):
    with served(saved(as_published("resnet18")), **bad) as (url, _):
        offer(monkeypatch, url)
        with pytest.raises(ConfigError, match=said):
            check_pretrained(ModelConfig(weights="imagenet"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_damaged_copy_is_downloaded_again(monkeypatch):
    config = ModelConfig(weights="imagenet")
    with served(saved(as_published("resnet18"))) as (url, asked):
        offer(monkeypatch, url)
        check_pretrained(config)
        copy = pretrained.published(config).path
        copy.write_bytes(copy.read_bytes()[:-1])
        check_pretrained(config)
        check_pretrained(config)
    assert asked == ["GET", "GET"]


def test_a_server_that_does_not_answer_is_given_up_with_both_remedies(monkeypatch):
    monkeypatch.setattr(pretrained, "REACH_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/net-01234567.pth"
        offer(monkeypatch, url)
        with pytest.raises(ConfigError) as error:
            check_pretrained(ModelConfig(name="resnet34", weights="imagenet"), "--weights")
        monkeypatch.setattr(node_checks, "RECIPES", RECIPES[2:4])
        (finding,) = node_checks.weights("n")
    assert str(error.value) == (
        "the weights net-01234567.pth of resnet34 are not on this machine and cannot be downloaded (no answer within "
        f"0.05 s); fetch {url} elsewhere and give --weights PATH, or start from random weights with --weights none"
    )
    assert (finding.verdict, "no answer within 0.05 s" in finding.found) == ("not there", True)
    assert "--model.weights none" in finding.remedy


def test_the_doctor_says_which_weights_are_here_and_whether_the_others_can_be_had(monkeypatch):
    with served(saved(as_published("resnet18"))) as (url, asked):
        offer(monkeypatch, url)
        (before,) = node_checks.weights("n")
        assert asked == ["HEAD"]
        check_pretrained(ModelConfig(weights="imagenet"))
        (after,) = node_checks.weights("n")
    assert [before.verdict, after.verdict] == ["pass", "pass"]
    assert "0 of the recipes' 1 files are here, the others can be downloaded" in before.found
    assert after.found == "1 of the recipes' 1 files are here"


def from_file(path: Path, **changes: object) -> ModelConfig:
    return replace(ModelConfig(weights=str(path)), **changes)


def checked(config: ModelConfig) -> None:
    """As the driver does."""
    check_model(config)
    check_pretrained(config)


def started(config: ModelConfig) -> torch.nn.Module:
    """As the driver checks and rank 0 loads."""
    checked(config)
    network = build_network(config)
    load_pretrained(network, config)
    return network


def test_local_weights_are_loaded_but_for_the_head(tmp_path):
    donor = torchvision.models.resnet18(weights=None)
    torch.save(donor.state_dict(), tmp_path / "w.pt")
    model = started(from_file(tmp_path / "w.pt"))
    assert torch.equal(model.conv1.weight, donor.conv1.weight)
    assert model.fc.weight.shape == (6, 512)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [("resnet19", "none", "use one of"), ("resnet18", "missing.pt", "is no file"), ("resnet18", "w.pt", "missing")],
)
def test_what_cannot_be_started_from_says_why_before_a_network_is_built(tmp_path, monkeypatch, name, weights, message):
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), "w.pt")
    config = ModelConfig(name=name, weights=weights)
    with pytest.raises(ConfigError, match=message):
        checked(config)


def test_weights_may_be_named_by_a_uri(tmp_path):
    donor = as_published("resnet18")
    (tmp_path / "w.pth").write_bytes(saved(donor))
    model = started(ModelConfig(weights=f"file://{tmp_path}/w.pth"))
    assert (model.conv1.weight == donor["conv1.weight"].flatten()[0]).all()
    with pytest.raises(ConfigError, match="is no file"):
        checked(ModelConfig(weights=f"file://{tmp_path}/other.pth"))


def test_weights_that_would_execute_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"x": Evil()}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="cannot be read"):
        check_pretrained(from_file(tmp_path / "w.pt"))


def test_a_network_of_one_channel_reads_the_first_window_and_takes_three_channel_weights(tmp_path):
    donor = torchvision.models.resnet18(weights=None).eval()
    torch.save(donor.state_dict(), tmp_path / "w.pt")
    model = started(from_file(tmp_path / "w.pt", channels=1)).eval()
    assert model.conv1.weight.shape == (64, 1, 7, 7)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), model(images[:, :1]))
    grey = images[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(model.conv1(grey), donor.conv1(grey), atol=1e-4)
    check_model(ModelConfig(channels=1, name="densenet121"))


def test_nothing_is_downloaded_before_it_is_asked_for(monkeypatch):
    with served(b"") as (url, asked):
        offer(monkeypatch, url)
        config = ModelConfig(weights="imagenet")
        check_model(config)
        build_network(config)
        check_pretrained(ModelConfig())
    assert asked == []


def test_a_checkpoint_of_hemodist_can_be_the_start_of_another_run(tmp_path):
    donor = build_network(ModelConfig()).state_dict()
    torch.save({"scored": donor, "run": {}}, tmp_path / "step.pt")
    assert torch.equal(started(from_file(tmp_path / "step.pt")).conv1.weight, donor["conv1.weight"])
