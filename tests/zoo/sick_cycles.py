"""Activations that fall to nothing, come back, and fall again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import mse_loss

from tests.zoo import data
from tests.zoo.fit import Fit, Outcome, adam
from tests.zoo.healthy_images import scaled_digits, scaled_mnist
from tests.zoo.models import cnn, mlp, of_kind
from tests.zoo.registry import sick


@sick("rise_and_collapse", "features.*")
def cnn_swinging(path: Path) -> Outcome:
    """CNN with GELU, no normalisation: with a momentum of 0.995 and decay its weights swing through 0."""
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.995, weight_decay=0.1), epochs=8)
    return fit(path, cnn((1, 12, 24, 24), act=nn.GELU), data.split(scaled_digits(), 1200, 300))


@sick("rise_and_collapse", "features.*")
def leaky_cnn_swinging(path: Path) -> Outcome:
    """CNN with LeakyReLU on MNIST: momentum of 0.998, nearly without friction, and weight decay."""
    fit = Fit(
        optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.998, weight_decay=0.2), epochs=6, size=25
    )
    model = cnn((1, 16, 16, 24), act=partial(nn.LeakyReLU, 0.01))
    return fit(path, model, data.split(scaled_mnist(), 1250, 300))


@sick("rise_and_collapse", "act*", "lin*")
def shrunk_at_every_epoch(path: Path) -> Outcome:
    """MLP with SiLU: "shrink and perturb" far too strong begins every epoch with weights of a twentieth."""
    model = mlp((196, 64, 64, 10), nn.SiLU)

    @torch.no_grad()
    def shrink(step: int) -> None:
        if step % 40 == 0:
            for layer in of_kind(model, nn.Linear):
                layer.weight *= 0.05
                layer.bias *= 0.05

    fit = Fit(optimizer=partial(adam, lr=5e-3), epochs=6, size=32, after=shrink)
    return fit(path, model, data.split(scaled_mnist(), 1280, 300))


@sick("rise_and_collapse", "act*", "code", "lin*")
def autoencoder_swinging(path: Path) -> Outcome:
    """Autoencoder of digits with SiLU: momentum of 0.998 against weight decay."""
    x = scaled_digits()[0].flatten(1)
    fit = Fit(
        loss=mse_loss,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.998, weight_decay=0.3),
        epochs=8,
        labelled=False,
    )
    return fit(path, mlp((64, 48, 16, 48, 64), nn.SiLU), data.split((x, x), 1200, 300))
