"""Building blocks and networks of the zoo."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Make = Callable[..., nn.Module]


def mlp(
    widths: Sequence[int], act: Make = nn.ReLU, norm: Make | None = None, drop: float = 0.0
) -> nn.Sequential:
    """Return Flatten and named layers `lin1`, `norm1`, `act1`, `drop1`, ..., with a linear `head`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flat=nn.Flatten())
    for i, (before, after) in enumerate(pairwise(widths[:-1]), start=1):
        layers[f"lin{i}"] = nn.Linear(before, after)
        if norm is not None:
            layers[f"norm{i}"] = norm(after)
        layers[f"act{i}"] = act()
        if drop:
            layers[f"drop{i}"] = nn.Dropout(drop)
    layers["head"] = nn.Linear(widths[-2], widths[-1])
    return nn.Sequential(layers)


def conv_block(
    before: int, after: int, act: Make = nn.ReLU, norm: Make | None = None, stride: int = 2
) -> nn.Sequential:
    """Return convolution, norm if any, and activation."""
    middle = [] if norm is None else [norm(after)]
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), *middle, act())


def cnn(
    widths: Sequence[int] = (1, 16, 32, 32), n_out: int = 10, act: Make = nn.ReLU, norm: Make | None = None
) -> nn.Sequential:
    """Return `features.0.0`, ... (conv, norm, act; each halves the side), `pool`, `flat` and `fc`."""
    pairs = pairwise(widths)
    features = nn.Sequential(*(conv_block(*pair, act, norm) for pair in pairs))
    return nn.Sequential(
        OrderedDict(
            features=features,
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            fc=nn.Linear(widths[-1], n_out),
        )
    )


class Residual(nn.Module):
    """A block of ResNet: two convolutions with BatchNorm, and the way round them."""

    def __init__(self, before: int, after: int, stride: int = 1, *, zero: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.down: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.down = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.out = nn.ReLU()
        if zero:
            nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add the block to what comes in."""
        branch = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.out(branch + self.down(x))


def resnet(
    widths: Sequence[int] = (8, 8, 16, 16, 32, 32), n_out: int = 10, *, zero: bool = False
) -> nn.Sequential:
    """Return a small ResNet: `conv1`, `bn1`, `relu`, `layer1`, ..., `avgpool`, `flat`, `fc`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(1, widths[0], 3, padding=1, bias=False), bn1=nn.BatchNorm2d(widths[0]), relu=nn.ReLU()
    )
    before = widths[0]
    for i, after in enumerate(widths, start=1):
        layers[f"layer{i}"] = Residual(before, after, 1 if before == after else 2, zero=zero)
        before = after
    layers.update(avgpool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(before, n_out))
    return nn.Sequential(layers)


class Attention(nn.Module):
    """Self-attention with its softmax as a module; `scale` None is 1 / sqrt(width of a head)."""

    def __init__(
        self, width: int, heads: int = 2, *, causal: bool = False, scale: float | None = None
    ) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.scale = (width // heads) ** -0.5 if scale is None else scale
        self.qkv = nn.Linear(width, 3 * width)
        self.softmax = nn.Softmax(dim=-1)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions [sample, position, width]."""
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = self.scale * q @ k.transpose(-1, -2)
        if self.causal:
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        return self.proj((self.softmax(scores) @ v).transpose(1, 2).reshape(n, length, width))


class Layer(nn.Module):
    """A layer of a transformer, with LayerNorm before or after each part."""

    def __init__(self, width: int, act: Make = nn.GELU, *, before: bool = True, **attention: object) -> None:
        super().__init__()
        self.before = before
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, **attention)
        self.mlp = nn.Sequential(
            OrderedDict(up=nn.Linear(width, 2 * width), act=act(), down=nn.Linear(2 * width, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x [sample, position, width] with attention and MLP added."""
        if self.before:
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class Transformer(nn.Module):
    """Tokens or patches in, one answer of each position (`pooled` False) or of the whole out."""

    def __init__(
        self,
        embed: nn.Module,
        length: int,
        n_out: int,
        *,
        width: int = 32,
        depth: int = 2,
        pooled: bool = True,
        **layer: object,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Layer(width, **layer) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_out)
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        """Return the answers [sample, n_out], or [sample, position, n_out]."""
        x = self.embed(x) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean(1) if self.pooled else x)


class Recurrent(nn.Module):
    """An RNN, LSTM or GRU over [sample, time, feature] or over tokens, and a head on its last output."""

    def __init__(self, cell: nn.Module, n_out: int, embed: nn.Module | None = None) -> None:
        super().__init__()
        self.embed = embed
        self.cell = cell
        self.head = nn.Linear(cell.hidden_size, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the answers [sample, n_out]."""
        x = x if self.embed is None else self.embed(x)
        return self.head(self.cell(x)[0][:, -1])


def of_kind(model: nn.Module, *kinds: type[nn.Module]) -> list[nn.Module]:
    """Return the modules of these classes, in the model's order."""
    return [module for module in model.modules() if isinstance(module, kinds)]


@torch.no_grad()
def reset(model: nn.Module, std: float | None = None, bias: float | None = None) -> nn.Module:
    """Draw the weights of all linear layers and convolutions anew, and set their biases."""
    for module in of_kind(model, nn.Linear, nn.Conv2d):
        if std is not None:
            nn.init.normal_(module.weight, 0, std)
        if bias is not None:
            nn.init.constant_(module.bias, bias)
    return model


class Transposed(nn.Module):
    """Swap the last two dimensions: [sample, feature, position] to [sample, position, feature]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x with the last two dimensions swapped."""
        return x.transpose(1, 2)
