"""The weights that training starts from: torchvision's, downloaded once a node, or those of a file.

torchvision's are trained on ImageNet's photographs, normalised by ImageNet's mean and standard deviation of three
channels. hemodist normalises its windows, a channel each, by the same numbers (`loading.pixels`).
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hemodist.config.training import ModelConfig
from hemodist.errors import ConfigError
from hemodist.models.network import FirstChannel, last_linear, torchvision_weights, untrained_network, weights_file
from hemodist.storage.local_files import write_whole

REACH_SECONDS = 2.0
"""A server that has not begun to answer by then counts as out of reach, and so does a name that is not resolved."""

STALL_SECONDS = 30.0
"""A download that gets no byte for so long has failed."""

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights that torchvision offers.

    Attributes:
        url: where torchvision says it is.
        path: its copy on this node, in PyTorch's own cache; there may be none yet.
    """

    url: str
    path: Path

    @property
    def name(self) -> str:
        """Of the file, which ends in the first digits of its SHA-256."""
        return self.path.name

    def copy(self) -> bytes | None:
        """The copy on this node; None where there is none, or one that is damaged."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return None
        return content if self._is_whole(content) else None

    def download(self) -> bytes:
        """Fetch the file and keep a copy on this node, which other processes see only when it is whole.

        Raises:
            OSError: it cannot be had, or is not what its name says.
        """
        with _answer(self.url) as answer:
            try:
                content: bytes = answer.read()
            except http.client.HTTPException as error:
                raise OSError(f"the download broke off: {error!r}") from error
        if not self._is_whole(content):
            raise OSError(f"what was downloaded, {len(content):,} bytes, does not have the SHA-256 that its name says")
        with contextlib.suppress(OSError):  # where nothing can be kept, each process downloads
            write_whole(self.path, content)
        return content

    def out_of_reach(self) -> str:
        """Why the file cannot be downloaded at this moment; empty where the server offers it."""
        try:
            _answer(self.url, "HEAD").close()
        except OSError as error:
            return _reason(error)
        return ""

    def _is_whole(self, content: bytes) -> bool:
        digits = re.search(r"-([0-9a-f]{8,})\.", self.name)
        return digits is None or hashlib.sha256(content).hexdigest().startswith(digits[1])


def published(config: ModelConfig) -> PublishedWeights | None:
    """What the configuration would download; None where it starts from random weights or a file of the user's."""
    chosen = None if config.weights == "none" else torchvision_weights(config)
    if chosen is None:
        return None
    return PublishedWeights(chosen.url, Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rpartition("/")[2])


def check_pretrained(config: ModelConfig, flag: str = "--model.weights") -> None:
    """See that the weights are on this node, downloaded where they were not, and that they fit the network.

    Args:
        config: `check_model` must accept it.
        flag: that chooses other weights, for the message.

    Raises:
        UserError: they cannot be had, or do not fit; the text says what to do.
    """
    if config.weights == "none":
        return
    state = _state(config, flag)
    with torch.device("meta"):
        network = untrained_network(config)
    _fitting(network, state, config.weights)


def load_pretrained(network: nn.Module, config: ModelConfig) -> None:
    """Load the weights that `config` names into a network that `build_network` made, all but those of the head.

    `none` loads nothing.

    Raises:
        UserError: they cannot be had, or do not fit.
    """
    if config.weights != "none":
        state = _state(config, "--model.weights")
        network.load_state_dict(_fitting(network, state, config.weights), strict=False)


def _state(config: ModelConfig, flag: str) -> State:
    source, name = published(config), config.weights
    if source is None:
        store, file = weights_file(name)
        content = store.read(file)
    else:
        name = source.name
        try:
            content = source.copy() or source.download()
        except OSError as error:
            raise ConfigError(
                f"the weights {source.name} of {config.name} are not on this machine and cannot be downloaded "
                f"({_reason(error)}); fetch {source.url} elsewhere and give {flag} PATH, or start from random weights "
                f"with {flag} none"
            ) from error
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file of another kind makes the unpickler raise
        raise ConfigError(f"model.weights {name!r} cannot be read as a state_dict: {error}") from error
    # A checkpoint of hemodist holds the network that was scored under `scored`.
    state = state["scored"] if isinstance(state, dict) and isinstance(state.get("scored"), dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError(f"model.weights {name!r} is no state_dict: a mapping of names to tensors")
    return state


def _fitting(network: nn.Module, state: Mapping[str, torch.Tensor], name: str) -> State:
    """What of a state_dict goes into the network.

    Raises:
        ConfigError: more than the head is missing, or of another shape.
    """
    own = network.state_dict()
    head = last_linear(network) or "classifier.1"
    stem = next((f"{n}.weight" for n, m in network.named_modules() if isinstance(m, FirstChannel)), None)
    # DenseNet's files are older than the names without a dot.
    state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key): value for key, value in state.items()}
    if stem in state and state[stem].shape[1] == 3:
        # What the filters answer to a grey picture, in which all three channels are alike.
        state |= {stem: state[stem].sum(dim=1, keepdim=True)}
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    wrong = [
        f"{k} {tuple(v.shape)} instead of {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and k not in fitting and not k.startswith(head)
    ]
    # Files that are older than batch norm's count of batches lack it; nothing that hemodist builds uses it.
    needed = (key for key in own if not key.endswith("num_batches_tracked") and not key.startswith(head))
    missing = [key for key in needed if key not in state]
    if wrong or missing:
        raise ConfigError(
            f"model.weights {name!r} does not fit: {len(missing)} tensors missing ({', '.join(missing[:3])}), "
            f"{len(wrong)} of another shape ({', '.join(wrong[:3])}); only the head may differ"
        )
    return {key: value for key, value in fitting.items() if not key.startswith(head)}


def _answer(url: str, method: str = "GET") -> Any:
    """The server's answer, of which only the beginning has come; to be closed.

    Raises:
        OSError: it refuses, or has not begun to answer after `REACH_SECONDS`.
    """
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=STALL_SECONDS))
        except (OSError, ValueError, http.client.HTTPException) as error:
            found.append(error)

    # On a thread, since no time-out bounds how long a name is looked up.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    if not found:
        raise OSError(f"no answer within {REACH_SECONDS:g} s")
    if isinstance(found[0], OSError):
        raise found[0]
    if isinstance(found[0], Exception):
        raise OSError(str(found[0])) from found[0]
    return found[0]


def _reason(error: OSError) -> str:
    """Why something cannot be had, in one line."""
    inner = error.reason if type(error) is urllib.error.URLError else error
    return " ".join(str(inner).split()) or type(inner).__name__
