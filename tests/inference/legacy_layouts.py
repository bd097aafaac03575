"""The networks of pytorch-CycleGAN-and-pix2pix, written down apart from ours: names and shapes, and the arithmetic."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]


def conv(name: str, *shape: int, bias: int = 0) -> State:
    weights = {f"{name}.weight": 0.2 * torch.randn(shape)}
    return {**weights, f"{name}.bias": 0.2 * torch.randn(bias)} if bias else weights


def norm_keys(name: str, channels: int, norm: str) -> State:
    if norm != "batch":
        return {}
    return {
        f"{name}.weight": 1 + 0.2 * torch.randn(channels),
        f"{name}.bias": 0.2 * torch.randn(channels),
        f"{name}.running_mean": 0.2 * torch.randn(channels),
        f"{name}.running_var": 0.5 + torch.rand(channels),
        f"{name}.num_batches_tracked": torch.tensor(12),
    }


def resnet_state(
    blocks: int = 2, filters: int = 4, channels: int = 3, norm: str = "instance", dropout: bool = False
) -> State:
    """The state dict of its ResnetGenerator, key by key."""
    f = filters

    def bias(width: int) -> int:  # only convolutions before an instance norm have one
        return width if norm == "instance" else 0

    state = conv("model.1", f, channels, 7, 7, bias=bias(f)) | norm_keys("model.2", f, norm)
    state |= conv("model.4", 2 * f, f, 3, 3, bias=bias(2 * f)) | norm_keys("model.5", 2 * f, norm)
    state |= conv("model.7", 4 * f, 2 * f, 3, 3, bias=bias(4 * f)) | norm_keys("model.8", 4 * f, norm)
    for block in range(10, 10 + blocks):
        for index in (1, 6 if dropout else 5):
            name = f"model.{block}.conv_block"
            state |= conv(f"{name}.{index}", 4 * f, 4 * f, 3, 3, bias=bias(4 * f))
            state |= norm_keys(f"{name}.{index + 1}", 4 * f, norm)
    up = 10 + blocks
    state |= conv(f"model.{up}", 4 * f, 2 * f, 3, 3, bias=bias(2 * f)) | norm_keys(f"model.{up + 1}", 2 * f, norm)
    state |= conv(f"model.{up + 3}", 2 * f, f, 3, 3, bias=bias(f)) | norm_keys(f"model.{up + 4}", f, norm)
    return state | conv(f"model.{up + 7}", channels, f, 7, 7, bias=channels)


def unet_state(depth: int = 5, filters: int = 4, channels: int = 3, norm: str = "instance") -> State:
    """The state dict of its UnetGenerator, key by key."""
    widths = [filters * factor for factor in (1, 2, 4, 8)] + [8 * filters] * (depth - 4)

    def bias(width: int) -> int:
        return width if norm == "instance" else 0

    state = conv("model.model.0", filters, channels, 4, 4, bias=bias(filters))
    stage = "model.model.1.model"
    ups: State = conv("model.model.3", 2 * filters, channels, 4, 4, bias=channels)
    for level in range(1, depth):
        outer, inner = widths[level - 1], widths[level]
        state |= conv(f"{stage}.1", inner, outer, 4, 4, bias=bias(inner))
        if level == depth - 1:  # innermost
            state |= conv(f"{stage}.3", inner, outer, 4, 4, bias=bias(outer)) | norm_keys(f"{stage}.4", outer, norm)
        else:
            state |= norm_keys(f"{stage}.2", inner, norm)
            here = conv(f"{stage}.5", 2 * inner, outer, 4, 4, bias=bias(outer)) | norm_keys(f"{stage}.6", outer, norm)
            ups = here | ups  # the state dict lists the way up after all that is inside
        stage += ".3.model"
    return state | ups


def discriminator_state() -> State:
    """Its PatchGAN with instance norm."""
    state = conv("model.0", 8, 3, 4, 4, bias=8) | conv("model.2", 16, 8, 4, 4, bias=16)
    state |= conv("model.5", 32, 16, 4, 4, bias=32) | conv("model.8", 64, 32, 4, 4, bias=64)
    return state | conv("model.11", 1, 64, 4, 4, bias=1)


# ---------------------------------------------------------------------------------------------------- arithmetic


def make_norm(norm: str, channels: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels, affine=False, track_running_stats=False) if norm == "instance" else nn.Identity()


class Block(nn.Module):
    def __init__(self, channels: int, norm: str, dropout: bool) -> None:
        super().__init__()
        bias = norm == "instance"
        layers = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), make_norm(norm, channels)]
        layers += [nn.ReLU(), *([nn.Dropout(0.5)] if dropout else [])]
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), make_norm(norm, channels)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Resnet(nn.Module):
    """Its ResnetGenerator out of torch's own modules."""

    def __init__(self, blocks: int, filters: int, channels: int, norm: str, dropout: bool) -> None:
        super().__init__()
        f, bias = filters, norm == "instance"
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(channels, f, 7, bias=bias), make_norm(norm, f), nn.ReLU()]
        for width in (f, 2 * f):
            layers += [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias)]
            layers += [make_norm(norm, 2 * width), nn.ReLU()]
        layers += [Block(4 * f, norm, dropout) for _ in range(blocks)]
        for width in (4 * f, 2 * f):
            layers += [nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1, bias=bias)]
            layers += [make_norm(norm, width // 2), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(f, channels, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def unet_forward(state: State, images: Tensor, depth: int, norm: str) -> Tensor:
    """Its UnetGenerator as functions of the state dict, with its in-place activations written out."""

    def normed(name: str, y: Tensor) -> Tensor:
        if norm == "instance":
            return F.instance_norm(y)
        if norm == "none":
            return y
        return F.batch_norm(y, *(state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")))

    def halved(name: str, y: Tensor) -> Tensor:
        return F.conv2d(y, state[f"{name}.weight"], state.get(f"{name}.bias"), 2, 1)

    def doubled(name: str, y: Tensor) -> Tensor:
        return F.conv_transpose2d(F.relu(y), state[f"{name}.weight"], state.get(f"{name}.bias"), 2, 1)

    def inner(stage: str, x: Tensor, level: int) -> Tensor:
        x = F.leaky_relu(x, 0.2)  # in place there: the skip carries it too
        if level == depth - 1:
            return torch.cat([x, normed(f"{stage}.4", doubled(f"{stage}.3", halved(f"{stage}.1", x)))], 1)
        below = inner(f"{stage}.3.model", normed(f"{stage}.2", halved(f"{stage}.1", x)), level + 1)
        return torch.cat([x, normed(f"{stage}.6", doubled(f"{stage}.5", below))], 1)

    return torch.tanh(doubled("model.model.3", inner("model.model.1.model", halved("model.model.0", images), 1)))
