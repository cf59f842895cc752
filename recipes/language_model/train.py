"""A small transformer learns to write: the residual stream grows from block to block.

Run from where `runs/` shall be: ``python train.py``. The text comes with Python itself: the help on the
language, as in ``help("TRUTHVALUE")``.
"""

import argparse
import re
from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.utils.data import DataLoader, TensorDataset

import actlab

LETTERS = " abcdefghijklmnopqrstuvwxyz"  # anything else becomes a space
CONTEXT, WIDTH, N_HEADS, N_BLOCKS = 64, 64, 4, 4


def load_text() -> dict[str, DataLoader]:
    """Return the loaders of the three splits; test is the end of the text."""
    text = re.sub("[^a-z]+", " ", " ".join(topics[name] for name in sorted(topics)).lower())
    letters = torch.tensor([LETTERS.index(letter) for letter in text])
    pieces = letters[: len(letters) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    n_test = n_valid = 800
    train, valid = torch.randperm(len(pieces) - n_test).split([len(pieces) - n_test - n_valid, n_valid])
    parts = {"train": pieces[train], "valid": pieces[valid], "test": pieces[-n_test:]}
    # Each letter is to be predicted from those before it.
    return {
        split: DataLoader(TensorDataset(part[:, :-1], part[:, 1:]), batch_size=16, shuffle=split == "train")
        for split, part in parts.items()
    }


class Attention(nn.Module):
    """Causal self-attention: a letter sees itself and those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.mixed = nn.Identity()  # so that what the heads give is recorded
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what each place gathers from the places before it [sample, place, width]."""
        n, length, _ = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, N_HEADS, -1).permute(2, 0, 3, 1, 4)
        heads = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(self.mixed(heads.transpose(1, 2).reshape(x.shape)))


class Block(nn.Module):
    """Attention and a two-layer network, each behind a layer norm, each added to the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.gelu = nn.GELU()
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.stream = nn.Identity()  # the residual stream behind this block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the residual stream behind this block [sample, place, width]."""
        x = x + self.attention(self.norm1(x))
        return self.stream(x + self.down(self.gelu(self.up(self.norm2(x)))))


class Transformer(nn.Module):
    """A causal transformer over letters."""

    def __init__(self) -> None:
        super().__init__()
        self.letter = nn.Embedding(len(LETTERS), WIDTH)
        self.place = nn.Embedding(CONTEXT, WIDTH)
        self.stream = nn.Identity()  # the residual stream before the first block
        self.blocks = nn.Sequential(*(Block() for _ in range(N_BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(LETTERS))
        for module in self.modules():  # small, as in GPT-2
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02 * (768 / WIDTH) ** 0.5)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next letter [sample, place, letter]."""
        places = torch.arange(letters.shape[1], device=letters.device)
        return self.head(self.norm(self.blocks(self.stream(self.letter(letters) + self.place(places)))))


def evaluate(
    model: nn.Module, loader: DataLoader, recorder: actlab.Recorder, split: str, epoch: int, device: str
) -> float:
    """Record one pass over a split, without learning from it; return the loss in nats per letter."""
    model.eval()
    total = 0.0
    with torch.no_grad():
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            with recorder.batch(split, epoch=epoch, labels=y):
                loss = cross_entropy(model(x).flatten(0, 1), y.flatten())
            recorder.log(loss=loss)
            total += float(loss)
    return total / len(loader)


def main() -> None:
    """Train for some epochs; evaluate before the first, after each, and once on the test set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # so small a model is fastest on one core

    loaders = load_text()
    model = Transformer().to(options.device)
    n_steps = options.epochs * len(loaders["train"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.003, total_steps=n_steps)
    # Every fifth batch tells enough, and costs a fifth of the time and of the disk.
    with actlab.Recorder(model, "runs/language_model.zarr", every=5, overwrite=True) as recorder:
        evaluate(model, loaders["valid"], recorder, "valid", -1, options.device)
        for epoch in range(options.epochs):
            model.train()
            for x, y in loaders["train"]:
                x, y = x.to(options.device), y.to(options.device)
                with recorder.batch("train", epoch=epoch, labels=y):
                    loss = cross_entropy(model(x).flatten(0, 1), y.flatten())
                recorder.log(loss=loss.detach(), lr=scheduler.get_last_lr()[0])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
            loss = evaluate(model, loaders["valid"], recorder, "valid", epoch, options.device)
            print(f"epoch {epoch}: loss {loss:.3f} in the validation")
        evaluate(model, loaders["test"], recorder, "test", options.epochs - 1, options.device)


if __name__ == "__main__":
    main()
