"""The loop of all trainings: train, evaluate, record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import actlab
from tests.zoo.data import Pair, Parts

Loss = Callable[[Tensor, Tensor], Tensor]
Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Alter = Callable[[int, Tensor, Tensor], Pair]

adam = partial(torch.optim.Adam, lr=2e-3)
sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


@dataclass(frozen=True)
class Outcome:
    """Mean losses: on the valid samples before and after the training, on the train samples after it.

    `accuracy` of train and valid, NaN where the targets are no classes.
    """

    before: float
    valid: float
    train: float
    accuracy: tuple[float, float]

    def __str__(self) -> str:
        right = "/".join(f"{share:.2f}" for share in self.accuracy)
        return f"valid {self.before:.3g} -> {self.valid:.3g}, train {self.train:.3g}, right {right}"


@dataclass
class Fit:
    """How one trains; the fields are what the users' scripts differ in."""

    loss: Loss = cross_entropy
    optimizer: Optimizer = adam
    schedule: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler] | None = None
    epochs: int = 5
    size: int = 32
    evaluated: Callable[[int], bool] = lambda epoch: True  # also asked for -1, before training
    tested: bool = False
    labelled: bool = True
    half: bool = False  # mixed precision
    clip: float | None = None
    alter: Alter | None = None  # of the step and a train batch: augmentation, and accidents
    after: Callable[[int], None] | None = None  # each step of the training

    def __call__(self, path: Path, model: nn.Module, parts: Parts, **options: Any) -> Outcome:
        """Train `model` on the parts, and record it; options are those of `actlab.Recorder`."""
        before = self.measure(model, parts["valid"])
        optimizer = self.optimizer([each for each in model.parameters() if each.requires_grad])
        steps = self.epochs * -(-len(parts["train"][0]) // self.size)
        schedule = None if self.schedule is None else self.schedule(optimizer, steps)
        step = 0
        with actlab.Recorder(model, path, overwrite=True, fsync=False, **options) as recorder:
            for epoch in range(-1, self.epochs):
                for x, y in batches(parts["train"], self.size, shuffle=True) if epoch >= 0 else ():
                    self.step(
                        model, optimizer, recorder, epoch, self.alter(step, x, y) if self.alter else (x, y)
                    )
                    if schedule is not None:
                        schedule.step()
                    if self.after is not None:
                        self.after(step)
                    step += 1
                if self.evaluated(epoch) and "valid" in parts:
                    self.evaluate(model, recorder, "valid", epoch, parts["valid"])
            if self.tested:
                self.evaluate(model, recorder, "test", self.epochs - 1, parts["test"])
        after = [self.measure(model, parts[name]) for name in ("train", "valid")]
        return Outcome(before[0], after[1][0], after[0][0], (after[0][1], after[1][1]))

    def step(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        recorder: actlab.Recorder,
        epoch: int,
        pair: Pair,
    ) -> None:
        """Learn from one batch."""
        x, y = pair
        model.train()
        with recorder.batch("train", epoch=epoch, labels=y if self.labelled else None), self.precision():
            loss = self.loss(model(x), y)
        recorder.log(loss=loss.detach())
        optimizer.zero_grad()
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.clip)
        optimizer.step()

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, recorder: actlab.Recorder, split: str, epoch: int, pair: Pair
    ) -> None:
        """Record one pass over a split, without learning from it."""
        model.eval()
        for x, y in batches(pair, self.size, shuffle=False):
            with recorder.batch(split, epoch=epoch, labels=y if self.labelled else None), self.precision():
                self.loss(model(x), y)

    @torch.no_grad()
    def measure(self, model: nn.Module, pair: Pair) -> tuple[float, float]:
        """Return the mean loss and the share of right answers, of one pass that is not recorded."""
        model.eval()
        losses, right = [], []
        for x, y in batches(pair, 64, shuffle=False):
            with self.precision():
                out = model(x)
                losses.append(float(self.loss(out, y)))
            if not y.is_floating_point():
                right.append((answers(out, y) == y).float().mean())
        return sum(losses) / len(losses), float(torch.stack(right).mean()) if right else float("nan")

    def precision(self) -> Any:
        """Return the context of a forward pass: autocast to float16, or none."""
        return torch.autocast("cpu", torch.float16) if self.half else nullcontext()


def answers(out: Tensor, y: Tensor) -> Tensor:
    """Return the classes that are answered, shaped like the labels; one logit says yes above 0."""
    if out.shape[-1] == 1:
        return (out[:, 0] > 0).long()
    return out.argmax(1 if y.dim() > 1 and out.shape[2:] == y.shape[1:] else -1)


def batches(pair: Pair, size: int, *, shuffle: bool) -> Iterable[Pair]:
    """Yield the samples in batches; the last one may be smaller."""
    x, y = pair
    order = torch.randperm(len(x)) if shuffle else torch.arange(len(x))
    for part in order.split(size):
        yield x[part], y[part]


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Raise the learning rate to four times its value and lower it again."""
    highest = 4 * optimizer.param_groups[0]["lr"]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=highest, total_steps=steps)


def warm_up(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Raise the learning rate over the first tenth of the steps."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (steps / 10)))
