"""Times instance normalisation, forward and backward, in its forms and memory layouts, by tensor and dtype.

    python benchmarks/normalization.py [--device cuda] [--threads 2] [--repeats 20] [--compile]

A row a tensor: milliseconds of what the networks do (`layers.InstanceNorm` in the layout they have on this device), and
the other forms as multiples of it. `instance_norm` is torch's own on contiguous tensors, since its gradient is wrong in
channels_last at batch 1 on the CPU; `batch_norm` normalises each image alone; `moments` are mean and variance written
out, with --compile fused by torch.compile. The last columns are a reflection padding and a ReLU, forward and backward,
as multiples of their time in the networks' layout: a layout pays as a whole or not at all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclestyle.devices import choose_device
from cyclestyle.networks.build import memory_format
from cyclestyle.networks.layers import InstanceNorm

SHAPES = ((1, 64, 128, 128), (1, 256, 32, 32), (2, 256, 32, 32), (8, 256, 64, 64))
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

Form = Callable[[Tensor], Tensor]


def by_group_norm(x: Tensor) -> Tensor:
    """A group norm with a channel a group."""
    return F.group_norm(x, x.shape[1])


def by_batch_norm(x: Tensor) -> Tensor:
    """The batch norm of each image alone."""
    return torch.cat([F.batch_norm(image, None, None, training=True) for image in x.split(1)])


def by_moments(x: Tensor) -> Tensor:
    """Mean and variance written out, in float32."""
    variance, mean = torch.var_mean(x.float(), dim=(2, 3), keepdim=True, correction=0)
    return ((x.float() - mean) * torch.rsqrt(variance + 1e-5)).to(x.dtype)


def padded(x: Tensor) -> Tensor:
    """What stands before most convolutions."""
    return F.pad(x, [1, 1, 1, 1], mode="reflect")


def milliseconds(form: Form, x: Tensor, repeats: int) -> float:
    """Time of a forward and a backward pass, the fastest of many: other work on the machine only adds."""
    gradient = torch.ones_like(form(x))
    times = []
    for _ in range(repeats + 3):
        if x.is_cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        form(x).backward(gradient)
        if x.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def forms(compiled: bool) -> list[tuple[str, str, Form]]:
    """Name, layout and function of each column."""
    columns: list[tuple[str, str, Form]] = [
        ("group cont.", "contiguous", by_group_norm),
        ("group last", "channels_last", by_group_norm),
        ("instance cont.", "contiguous", F.instance_norm),
        ("batch cont.", "contiguous", by_batch_norm),
        ("batch last", "channels_last", by_batch_norm),
        ("moments cont.", "contiguous", by_moments),
        ("moments last", "channels_last", by_moments),
    ]
    if compiled:
        fused: Form = torch.compile(by_moments)
        columns += [("compiled cont.", "contiguous", fused), ("compiled last", "channels_last", fused)]
    return columns


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on the CPU")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="time fused moments too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    own = next(name for name, layout in LAYOUTS.items() if layout == memory_format(device))
    other = next(name for name in LAYOUTS if name != own)
    columns = forms(args.compile)
    print(
        f"torch {torch.__version__}, {device.type}, {args.threads} threads; networks in {own}: ms, then multiples of it"
    )
    heads = [name for name, _, _ in columns] + [f"pad {other[:4]}.", f"relu {other[:4]}."]
    print(f"{'tensor':>18} {'dtype':>8} {'networks':>9} " + " ".join(f"{head:>14}" for head in heads))
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(shape, dtype=dtype, device=device)
            inputs = {name: x.to(memory_format=layout).requires_grad_() for name, layout in LAYOUTS.items()}
            base = milliseconds(InstanceNorm(shape[1]), inputs[own], args.repeats)
            row = [milliseconds(form, inputs[layout], args.repeats) / base for _, layout, form in columns]
            for form in (padded, F.relu):
                mine, others = (milliseconds(form, inputs[name], args.repeats) for name in (own, other))
                row.append(others / mine)
            name = str(dtype).removeprefix("torch.")
            print(f"{shape!s:>18} {name:>8} {base:9.2f} " + " ".join(f"{ratio:13.1f}x" for ratio in row), flush=True)


if __name__ == "__main__":
    main()
