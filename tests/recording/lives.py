"""A training that dies and goes on from its checkpoint; run as a script, many that die: FOLDER SEED."""

import os
import random
import signal
import sys
from itertools import product
from pathlib import Path

import torch
from torch import nn

import actlab

EPOCHS, N_TRAIN, N_VALID = 4, 5, 2
BATCHES = EPOCHS * N_TRAIN

FORMS = (actlab.Recorder, actlab.record)
EVERY = (1, 3)
# Where the checkpoint of the first life is saved: training batches, and whether they are validated.
CHECKPOINTS = ((7, False), (10, False), (10, True), (11, False))
PLANS = [plan for plan in product(FORMS, EVERY, CHECKPOINTS) if plan[1] > 1 or plan[2] in CHECKPOINTS[:2]]


def name_of(form, every, checkpoint):
    """Return a name for the folder of a plan."""
    return f"{form.__name__}-{every}-{checkpoint[0]}-{checkpoint[1]}"


def batch_of(split, number):
    """Return the inputs and labels of a batch."""
    generator = torch.Generator().manual_seed(1000 * (split == "valid") + number)
    return torch.randn(6, 4, generator=generator), torch.randint(0, 3, (6,), generator=generator)


def make_model(seed=0):
    """Return a small classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


class Life:
    """One process of a training: it goes on from the checkpoint in its folder, if there is one."""

    def __init__(self, folder, form, every, checkpoints=(), dies_at=None, die=None):
        self.folder = folder
        self.form, self.every = form, every
        self.checkpoints, self.dies_at, self.die = checkpoints, dies_at, die
        self.model = make_model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.done = self.start = 0
        self.is_validated = True

    def live(self):
        """Train to the end, or to death."""
        path = self.folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.start, self.is_validated = state["done"], state["is_validated"]
        with self.form(
            self.model,
            self.folder / "run.zarr",
            every=self.every,
            resume_step=self.start,
            flush_every=0.0,
            fsync=False,
            on_error="raise",
        ) as recorder:
            if self.start == 0:
                self.validate(recorder, -1)
            for epoch in range((self.start - (not self.is_validated)) // N_TRAIN, EPOCHS):
                self.train(recorder, epoch)
                if self.done > self.start or not self.is_validated:
                    self.validate(recorder, epoch)
                    self.save(recorder, is_validated=True)
        return self

    def train(self, recorder, epoch):
        """Train for what is left of one epoch."""
        self.model.train()
        for number in range(epoch * N_TRAIN, (epoch + 1) * N_TRAIN):
            self.done = number + 1
            if number >= self.start:
                loss = self.forward(recorder, "train", epoch, number)
                recorder.log(loss=loss.detach())
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                if self.done == self.dies_at:
                    self.die()
                self.save(recorder, is_validated=False)

    def validate(self, recorder, epoch):
        """Evaluate the weights as they are."""
        self.model.eval()
        with torch.no_grad():
            for number in range(N_VALID):
                self.forward(recorder, "valid", epoch, number)

    def forward(self, recorder, split, epoch, number):
        """Return the loss of one recorded batch."""
        x, y = batch_of(split, number)
        if self.form is actlab.record:
            recorder.labels(y)
            return nn.functional.cross_entropy(self.model(x), y)
        with recorder.batch(split, epoch, y):
            return nn.functional.cross_entropy(self.model(x), y)

    def save(self, recorder, *, is_validated):
        """Save a checkpoint, if it is time."""
        if (self.done, is_validated) in self.checkpoints:
            recorder.flush()
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            state |= {"done": self.done, "is_validated": is_validated}
            torch.save(state, self.folder / "checkpoint.new")
            (self.folder / "checkpoint.new").rename(self.folder / "checkpoint.pt")


def kill():
    """Die at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def end():
    """Leave without a word."""
    os._exit(3)


def in_a_child(function):
    """Call a function in a process of its own, which is to die of it."""
    if (child := os.fork()) == 0:
        try:
            function()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] in (signal.SIGKILL, 3 << 8)


def main(folder, seed):
    """Let the trainings of all plans die twice, at random."""
    torch.set_num_threads(1)
    (folder / "first").mkdir()
    Life(folder / "first", actlab.record, 5).live()  # so that no child has to load and compile
    chance = random.Random(seed)
    for form, every, checkpoint in PLANS:
        home = folder / name_of(form, every, checkpoint)
        home.mkdir()
        later = (chance.randrange(checkpoint[0] + 1, BATCHES), False)
        for saved in (checkpoint, later):
            dies_at = chance.randrange(saved[0] + 1, BATCHES + 1)
            life = Life(home, form, every, [saved], dies_at, chance.choice([kill, end]))
            in_a_child(life.live)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
