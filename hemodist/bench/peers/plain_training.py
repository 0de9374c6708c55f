"""A training as one writes it with PyTorch and torchvision alone, in under 100 lines: the peer of `bench.quality`."""

from __future__ import annotations

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from hemodist.bench.peers.training_task import MEAN, STD, Answers, Slices, Task, read
from hemodist.dataset.labels import LABELS, LOSS_WEIGHTS

WORKERS = 1


class Pictures(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Slices, decoded and augmented."""

    def __init__(self, slices: Slices, *steps: nn.Module) -> None:
        self._slices = slices
        last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        self._steps = v2.Compose([*steps, *last])

    def __len__(self) -> int:
        return len(self._slices.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        picture = Image.open(self._slices.files[index]).convert("RGB")
        return self._steps(picture), torch.from_numpy(self._slices.targets[index])


def train(task: Task) -> None:
    """Train, and answer after each epoch."""
    torch.manual_seed(task.seed)
    torch.set_num_threads(task.threads)
    trained_on, validated_on = read(task)
    augmented = Pictures(
        trained_on,
        v2.RandomRotation(10, interpolation=v2.InterpolationMode.BILINEAR),
        v2.RandomResizedCrop(task.size, scale=(0.8, 1.0), ratio=(1.0, 1.0)),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(brightness=0.05, contrast=0.1),
    )
    plain = Pictures(validated_on, v2.Resize((task.size, task.size)))
    kept = WORKERS > 0
    batches = DataLoader(augmented, task.batch, shuffle=True, num_workers=WORKERS, persistent_workers=kept)
    valid_batches = DataLoader(plain, 64, num_workers=WORKERS, persistent_workers=kept)
    answers = Answers(task)
    network = torchvision.models.resnet18(num_classes=len(LABELS)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=task.lr, weight_decay=task.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, task.lr, total_steps=task.epochs * len(batches))
    weights = torch.tensor(LOSS_WEIGHTS)
    for _ in range(task.epochs):
        network.train()
        for images, targets in batches:
            entropy = nn.functional.binary_cross_entropy_with_logits(network(images), targets, reduction="none")
            loss = (entropy * weights).sum(dim=1).mean() / weights.sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.inference_mode():
            answers.add(np.concatenate([torch.sigmoid(network(images)).numpy() for images, _ in valid_batches]))


if __name__ == "__main__":
    train(Task.of_command_line())
