"""Small networks trained on real digits, recorded, with what they gave kept beside."""

from types import SimpleNamespace

import numpy as np
import pytest

KINDS = ("binary", "classes", "multi-hot", "float")
N_EPOCHS = 5


def targets_of(kind, digits):
    """Return what a network of a kind is to say of the digits, and its loss."""
    import torch
    from torch.nn import functional

    y = torch.tensor(digits)
    if kind == "classes":
        return y, functional.cross_entropy
    if kind == "float":
        return (y.float() / 9)[:, None], functional.mse_loss
    columns = [y % 2 == 0] if kind == "binary" else [y % 2 == 0, y >= 5]
    return torch.stack(columns, 1).float(), functional.binary_cross_entropy_with_logits


def trained(path, kind, labelled=True, **options):
    """Train on the digits of scikit-learn and record; outputs {(split, epoch): head, targets}."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    import actlab

    torch.set_num_threads(1)
    torch.manual_seed(3)
    pixels, digits = load_digits(return_X_y=True)
    x = torch.tensor(pixels / 8 - 1, dtype=torch.float32)
    y, loss_of = targets_of(kind, digits)
    parts = dict(zip(("train", "valid", "test"), torch.randperm(len(x)).split([1000, 400, 397]), strict=True))
    units = {"classes": 10, "multi-hot": 2}.get(kind, 1)
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, units))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    outputs = {}

    def run_split(split, epoch):
        model.train(split == "train")
        batches = parts[split][torch.randperm(1000)].split(50) if split == "train" else [parts[split]]
        for part in batches:
            with recorder.batch(split, epoch, y[part] if labelled else None):
                head = model(x[part])
            if split == "train":
                optimizer.zero_grad()
                loss_of(head, y[part]).backward()
                optimizer.step()
            found = outputs.setdefault((split, epoch), [])
            found.append((head.detach().double().numpy(), y[part].numpy()))

    with actlab.Recorder(model, path, on_error="raise", **options) as recorder:
        run_split("valid", -1)
        for epoch in range(N_EPOCHS):
            run_split("train", epoch)
            run_split("valid", epoch)
        run_split("test", N_EPOCHS - 1)
    for (split, _), found in outputs.items():
        last = -(-len(found) // 4) if split == "train" else len(found)
        found[:] = [np.concatenate(each) for each in zip(*found[-last:], strict=True)]
    return SimpleNamespace(run=actlab.open_run(path), outputs=outputs, last=N_EPOCHS - 1)


@pytest.fixture(scope="session")
def train_digits(tmp_path_factory):
    """Return a function that trains a network of a kind, each once, raw or counted by unit and truth."""
    known = {}

    def train(kind, counted=False, labelled=True, **options):
        key = (kind, counted, labelled, *options)
        if key not in known:
            with pytest.MonkeyPatch.context() as patch:
                if counted:
                    patch.setattr("actlab.recording.head.MAX_RAW_VALUES", 0)
                path = tmp_path_factory.mktemp("digits") / "run.zarr"
                known[key] = trained(path, kind, labelled, **options)
        return known[key]

    return train


@pytest.fixture(scope="session")
def marks_of():
    """Return a function that says which outputs [sample, unit] are YES."""

    def mark(kind, targets):
        return np.arange(10) == targets[:, None] if kind == "classes" else targets == 1

    return mark
