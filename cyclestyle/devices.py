"""Where networks run and in what arithmetic, in training and in translating: what `auto` means, what the machine has.

Row 1 of the house: imports errors only.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from cyclestyle.errors import ConfigError


@dataclass(frozen=True)
class Precision:
    """The arithmetic of the networks.

    Attributes:
        name: "fp32", "bf16" or "fp16".
        reason: in words, why `auto` chose it, or "as configured".
    """

    name: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """What autocast computes convolutions in."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.name]

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Mixed precision on `device`; does nothing in fp32. Weights, statistics of norms and losses stay fp32."""
        return torch.autocast(device.type, dtype=self.dtype, enabled=self.name != "fp32")


def choose_device(name: str) -> torch.device:
    """The device for `train.device` or `--device`: auto, cpu, cuda or mps.

    Raises:
        ConfigError: another name, or the device asked for is not there.
    """
    if name not in ("auto", "cpu", "cuda", "mps"):
        raise ConfigError(f"device {name} was asked for, needed is auto, cpu, cuda or mps")
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    if (name == "cuda" and not has_cuda) or (name == "mps" and not has_mps):
        kind = "NVIDIA GPU that torch can use" if name == "cuda" else "Apple GPU"
        raise ConfigError(f"device {name} was asked for, but there is no {kind} here: use device auto or cpu")
    return torch.device(name)


def has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 convolutions run in hardware on `device`, not emulated (which would be slower than fp32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision for `train.precision` or `--precision`: auto, fp32, bf16 or fp16, on `device`.

    Raises:
        ConfigError: another name, or fp16 on a processor.
    """
    if name not in ("auto", "fp32", "bf16", "fp16"):
        raise ConfigError(f"precision {name} was asked for, needed is auto, fp32, bf16 or fp16")
    if name == "auto":
        if has_native_bf16(device):
            return Precision("bf16", f"auto: this {device.type} computes bf16 natively")
        return Precision("fp32", f"auto: no native bf16 known on this {device.type}")
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 was asked for, but it needs a GPU: use bf16, fp32 or auto on the cpu")
    return Precision(name, "as configured")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python failed for want of memory; on the CPU torch says so in words alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def free_memory() -> int:
    """Bytes that this process may still take without harm, as well as the system tells."""
    candidates = [_free_of_container(), _free_of_machine()]
    return min((size for size in candidates if size is not None), default=2**30)


def _free_of_machine() -> int | None:
    """Available memory on Linux, half of all memory on other Unixes, None where neither is told (Windows)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _free_of_container() -> int | None:
    """What a container's limit (cgroup v2) leaves; None without one."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return None if limit == "max" else max(0, int(limit) - used)
    except (OSError, ValueError):
        return None


def used_memory(device: torch.device) -> int:
    """Bytes that this process takes: the most so far of the GPU's memory that torch holds, or the machine's, now.

    On Linux what is resident of the process alone, without its workers; on other Unixes the most that ever was; 0
    where the system does not tell (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def num_cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
