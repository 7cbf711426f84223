"""Measures an encoder on this machine: multiply-accumulates, time, memory. Needs torch only."""

import ctypes
import os
import platform
import statistics
import time
from typing import Any, Callable, Dict, List, Optional

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from colld_fairseq.container_memory import free_of_limits
from colld_fairseq.modules.cpu import plain_operators

USABLE = 0.95  # of the memory that is there: an allocator cannot use all of it
_STATUS, _RESET_PEAK = "/proc/self/status", "/proc/self/clear_refs"


def count_macs(function: Callable[[], Any]) -> int:
    """Multiply-accumulates of `function()`: matrix products and convolutions (that which a faster way on a CPU stands
    for), by torch's flop counter / 2. Norms, activations, softmax and Fourier transforms are not counted, nor is what
    happens outside torch (Kaldi's filterbanks, some 10 million for 10 s)."""
    # The counter does not know the fused attention kernel of the CPU and would count it as nothing.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad(), plain_operators():
        function()
    return counter.get_total_flops() // 2


def time_runs(function: Callable[[], Any], runs: int, device: torch.device) -> List[float]:
    """Seconds of each of `runs` calls; the device has finished its work at both ends. Warm up before."""
    seconds = []
    for _ in range(runs):
        _synchronize(device)
        start = time.perf_counter()
        function()
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def real_time_factor(seconds: List[float], audio_seconds: float) -> float:
    """Median processing time per second of audio: 0.01 is a hundred times faster than speech."""
    return statistics.median(seconds) / audio_seconds


def working_memory(function: Callable[[], Any], device: torch.device) -> Optional[int]:
    """Bytes that `function()` needs at its peak beyond what was in use before it. On a GPU of torch's allocator, on
    Linux of the process (resident memory). None where neither can be asked."""
    if device.type == "cuda":
        _synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        _synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps from earlier runs would hide new needs
        with open(_RESET_PEAK, "w") as reset:
            reset.write("5")
        before = _status_bytes("VmRSS")
        function()
        return max(0, _status_bytes("VmHWM") - before)
    except (OSError, AttributeError, TypeError):  # not Linux, no /proc, or not with glibc
        return None


def memory_in_use(device: torch.device) -> Optional[int]:
    """Bytes, of torch's allocator or of the process, as `working_memory` counts; None where it cannot be asked."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        return _status_bytes("VmRSS")
    except OSError:
        return None


def usable_memory(device: torch.device) -> Optional[int]:
    """Bytes that this process may have in all, a reserve left out: of what the machine has left or, in a container, of
    its limit. None where it cannot be asked."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(USABLE * (free + torch.cuda.memory_reserved(device)))
    try:
        with open("/proc/meminfo", encoding="utf-8") as lines:
            free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        return int(USABLE * (min([free, *free_of_limits()]) + _status_bytes("VmRSS")))
    except (OSError, StopIteration):
        return None


def describe_machine(device: torch.device) -> Dict[str, Any]:
    """What a timing depends on: processor, cores, accelerator, versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_name(),
        "cores": cores,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _status_bytes(key: str) -> int:
    with open(_STATUS, encoding="utf-8") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
