"""hemodist's recipe `demo`, loop and checkpoints included, as `bench.quality` measures it."""

from __future__ import annotations

from dataclasses import replace

import torch

from hemodist.bench.peers.training_task import Answers, Task
from hemodist.config.data import DataConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.recipes import demo
from hemodist.config.run import Run
from hemodist.metrics.predictions import Predictions
from hemodist.training.learner import Learner
from hemodist.training.loop import Training
from hemodist.training.validation import Validation
from hemodist.world import World


class Answering(Validation):
    """The run's validation, which also answers with what the network that a user would take says."""

    answers: Answers

    def of_learner(self, learner: Learner, step: int) -> tuple[Predictions, dict[str, float]]:
        """As the run's own."""
        found, scores = super().of_learner(learner, step)
        self.answers.add(found.scored())
        return found, scores


def run_of(task: Task) -> Run:
    """The recipe with what the task fixes."""
    recipe = demo()
    return replace(
        recipe,
        output=f"{task.out}/runs",
        seed=task.seed,
        data=DataConfig(dataset=task.dataset, valid_fold=task.valid_fold),
        batch=replace(recipe.batch, global_batch_size=task.batch),
        model=replace(recipe.model, name="resnet18", weights="none", image_size=task.size),
        optim=replace(recipe.optim, lr=task.lr, weight_decay=task.weight_decay, epochs=task.epochs),
        scaling=ScalingConfig(workers=0, device="cpu"),
        tracking=TrackingConfig(mode="disabled"),
    )


def train(task: Task) -> None:
    """Train, and answer after each epoch."""
    torch.set_num_threads(task.threads)
    answers = Answers(task)
    run, world = run_of(task), World.alone()
    training = Training(run, world, lambda event: None)
    training.validation = validation = Answering(run, training.prepared, world, training.reader, lambda event: None)
    validation.answers = answers
    for batch in training.batches():
        training.update(batch)
        epoch = training.epoch_ended()
        if epoch is not None:
            training.validate(epoch)
            training.save()
    training.checkpoints.wait()


if __name__ == "__main__":
    train(Task.of_command_line())
