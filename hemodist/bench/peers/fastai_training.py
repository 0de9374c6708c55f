"""fastai's own learner on the same slices, with its defaults for whatever `bench.quality` does not fix.

It runs in an environment of its own, and imports nothing that only hemodist has.
"""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from fastai.vision.all import (  # type: ignore[import-not-found, unused-ignore]
    Callback,
    DataBlock,
    ImageBlock,
    IndexSplitter,
    Learner,
    Normalize,
    RandomResizedCrop,
    TransformBlock,
    aug_transforms,
    set_seed,
)

from hemodist.bench.peers.training_task import MEAN, STD, Answers, Task, read
from hemodist.dataset.labels import LABELS, LOSS_WEIGHTS

WORKERS = 1


class Entropy:
    """The competition's loss."""

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of a batch, both [b, 6]."""
        logits, targets = (one.as_subclass(torch.Tensor) for one in (logits, targets))  # plain ones, of fastai's kinds
        weights = torch.tensor(LOSS_WEIGHTS)
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (entropy * weights).sum(dim=1).mean() / weights.sum()


class Answering(Callback):  # type: ignore[misc]
    """Answers after each epoch with what the validation that fastai makes anyway has found."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._found: list[torch.Tensor] = []

    def before_validate(self) -> None:
        """Forget the last epoch's."""
        self._found = []

    def after_pred(self) -> None:
        """Keep a batch's."""
        if not self.training:
            self._found.append(torch.sigmoid(self.pred.detach()).as_subclass(torch.Tensor))

    def after_epoch(self) -> None:
        """Answer."""
        self._answers.add(torch.cat(self._found).numpy())


def train(task: Task) -> None:
    """Train, and answer after each epoch."""
    set_seed(task.seed)
    torch.set_num_threads(task.threads)
    train_slices, valid_slices = read(task)
    files = train_slices.files + valid_slices.files
    targets = torch.cat([torch.from_numpy(side.targets) for side in (train_slices, valid_slices)])

    def file_of(number: int) -> Any:
        return files[number]

    def target_of(number: int) -> torch.Tensor:
        return targets[number]

    block = DataBlock(
        blocks=(ImageBlock, TransformBlock),
        get_x=file_of,
        get_y=target_of,
        splitter=IndexSplitter(range(len(train_slices.files), len(files))),
        item_tfms=RandomResizedCrop(task.size, min_scale=0.8, ratio=(1.0, 1.0), val_xtra=0.0),  # validated whole
        batch_tfms=[
            *aug_transforms(max_rotate=10.0, max_zoom=1.0, max_lighting=0.1, max_warp=0.0),
            Normalize.from_stats(MEAN, STD, cuda=False),
        ],
    )
    loaders = block.dataloaders(range(len(files)), bs=task.batch, num_workers=WORKERS, device=torch.device("cpu"))
    answers = Answers(task)
    learner = Learner(loaders, torchvision.models.resnet18(num_classes=len(LABELS)), loss_func=Entropy())
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(task.epochs, task.lr, wd=task.weight_decay, cbs=Answering(answers))


if __name__ == "__main__":
    train(Task.of_command_line())
