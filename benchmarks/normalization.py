"""Times instance normalisation, forward and backward, as group_norm and in its other forms, by layout and dtype.

    python benchmarks/normalization.py [--threads 2] [--repeats 20]

A row a tensor; milliseconds of the form that the networks use, and the others as multiples of it. `instance_norm` is
timed on contiguous copies, since its gradient is wrong in channels_last at batch 1 on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SHAPES = ((1, 64, 128, 128), (1, 256, 32, 32), (2, 256, 24, 24))


def by_group_norm(x: Tensor) -> Tensor:
    """What the networks do."""
    return F.group_norm(x, x.shape[1])


def by_instance_norm(x: Tensor) -> Tensor:
    """torch's own, on a contiguous copy."""
    return F.instance_norm(x.contiguous())


def by_moments(x: Tensor) -> Tensor:
    """Mean and variance written out, in float32."""
    variance, mean = torch.var_mean(x.float(), dim=(2, 3), keepdim=True, correction=0)
    return ((x.float() - mean) * torch.rsqrt(variance + 1e-5)).to(x.dtype)


def milliseconds(form: Callable[[Tensor], Tensor], x: Tensor, repeats: int) -> float:
    """Median time of a forward and a backward pass."""
    gradient = torch.ones_like(x)
    times = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        form(x).backward(gradient)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[3:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads; milliseconds, and multiples of group_norm contiguous")
    print(f"{'tensor':>20} {'dtype':>9} {'group_norm':>11} {'channels_last':>14} {'instance_norm':>14} {'moments':>8}")
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(shape, dtype=dtype).requires_grad_()
            last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
            base = milliseconds(by_group_norm, x, args.repeats)
            others = [
                milliseconds(by_group_norm, last, args.repeats),
                milliseconds(by_instance_norm, x, args.repeats),
                milliseconds(by_moments, x, args.repeats),
            ]
            row = [f"{other / base:.1f}x" for other in others]
            name = str(dtype).removeprefix("torch.")
            print(f"{shape!s:>20} {name:>9} {base:>11.2f} {row[0]:>14} {row[1]:>14} {row[2]:>8}", flush=True)


if __name__ == "__main__":
    main()
