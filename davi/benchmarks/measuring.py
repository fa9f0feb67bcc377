"""Measures how long something takes, in one run on one machine, and writes that down."""

import datetime
import gc
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from davi.system.errors import InputError
from davi.system.files import write_text
from davi.system.runtime import AUTOCAST_DTYPES

MATMUL_SIZES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192, 16384)}
MATMUL_REPEATS = 5
COLUMNS = (
    "rung",
    "median [ms]",
    "p95 [ms]",
    "images/s",
    "speed-up",
    "peak memory [MB]",
    "share of matmul peak",
    "drift [dB]",
)
WARMUPS = {"cpu": 1, "cuda": 3}


@dataclass(frozen=True, kw_only=True)
class Rung:
    """Something to be measured.

    Attributes:
        name: in the table.
        build: sets up and returns two functions without arguments: the work, and one that gives
            what the first call of it led to, a tensor to compare between rungs, or None.
        num_images: that one call of the work deals with.
        comparable: whether it does the work of the first rung, in another way.
        precision: of its matrix products, for their share of the machine's peak; None for work
            that has none worth counting.
    """

    name: str
    build: Callable[[], tuple[Callable[[], Any], Callable[[], Tensor | None]]]
    num_images: int
    comparable: bool = True
    precision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What came out.

    Attributes:
        name: of the rung.
        median_s, p95_s: seconds of one call.
        images_per_second: by the median.
        speedup: over the first rung; None if it is not comparable.
        peak_memory_mb: largest allocation on a GPU, largest resident memory of the process on a
            CPU; None where the system does not tell.
        matmul_share: floating-point operations of its convolutions and matrix products per second,
            as a share of the peak measured in the same run; None if not counted.
        drift_db: PSNR between its result and that of the first rung, for images in [-1, 1]; None
            for the first one, for equal results, and where there is none.
    """

    name: str
    median_s: float
    p95_s: float
    images_per_second: float
    speedup: float | None
    peak_memory_mb: float | None
    matmul_share: float | None
    drift_db: float | None


def climb(rungs: Iterable[Rung], device: torch.device, repeats: int) -> list[Measurement]:
    """Measures one rung after the other; only one is set up at a time."""
    peaks: dict[str, float] = {}
    found: list[Measurement] = []
    reference: Tensor | None = None
    for rung in tqdm(list(rungs), desc="measuring", unit="rung"):
        if rung.precision and rung.precision not in peaks:
            peaks[rung.precision] = matmul_peak(device, rung.precision)
        work, outcome = rung.build()
        _reset_memory(device)
        work()
        result = outcome()
        result = None if result is None else result.detach().float().cpu()
        reference = result if reference is None else reference
        flops = count_flops(work) if rung.precision else 0
        seconds = time_calls(work, device, repeats)
        median = statistics.median(seconds)
        first = found[0].median_s if found else median
        found.append(
            Measurement(
                name=rung.name,
                median_s=median,
                p95_s=float(np.quantile(seconds, 0.95)),
                images_per_second=rung.num_images / median,
                speedup=first / median if rung.comparable else None,
                peak_memory_mb=_peak_memory(device),
                matmul_share=flops / median / peaks[rung.precision] if flops else None,
                drift_db=_drift(result, reference),
            )
        )
        del work, outcome
        gc.collect()
    return found


def time_calls(work: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Returns the seconds of each call, after some that warm up."""
    for _ in range(WARMUPS[device.type]):
        work()
    seconds = []
    for _ in range(repeats):
        start = now(device)
        work()
        seconds.append(now(device) - start)
    return seconds


def now(device: torch.device) -> float:
    """Returns the time in seconds, once a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def count_flops(work: Callable[[], Any]) -> int:
    """Returns the floating-point operations of the convolutions and matrix products of a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def matmul_peak(device: torch.device, precision: str) -> float:
    """Returns the most floating-point operations per second of a square matrix product here."""
    dtype = AUTOCAST_DTYPES[precision] or torch.float32
    best = 0.0
    for size in MATMUL_SIZES[device.type]:
        a = torch.randn(size, size, device=device, dtype=dtype)
        b = torch.randn(size, size, device=device, dtype=dtype)
        fastest = min(time_calls(lambda a=a, b=b: a @ b, device, MATMUL_REPEATS))
        best = max(best, 2 * size**3 / fastest)
    return best


def machine(device: torch.device) -> dict[str, str | int]:
    """Returns what a reader needs to know of the machine."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def report_files(path: Path) -> tuple[Path, Path]:
    """Returns the files of a report: JSON, and the table in Markdown beside it.

    Raises:
        InputError: one of them exists.
    """
    files = path, path.with_suffix(".md")
    for target in files:
        if target.exists():
            raise InputError(f"{target}: exists; choose another --output")
    return files


def write_report(
    path: Path, title: str, facts: dict[str, Any], found: Sequence[Any], table: str
) -> None:
    """Writes what was measured, see `report_files`.

    Args:
        path: of the JSON.
        title: of the report.
        facts: of the machine.
        found: dataclasses, one for each line of the table.
        table: in Markdown.

    Raises:
        InputError: one of the files exists.
    """
    numbers, beside = report_files(path)
    numbers.parent.mkdir(parents=True, exist_ok=True)
    content = {"title": title, "machine": facts, "rows": [asdict(each) for each in found]}
    write_text(numbers, json.dumps(content, indent=2) + "\n")
    write_text(beside, table)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [f"| {' | '.join(row)} |\n" for row in (columns, *rows)]
    return "".join([lines[0], f"|{'---|' * len(columns)}\n", *lines[1:]])


def to_table(found: list[Measurement]) -> str:
    """Returns the Markdown table of a ladder."""
    rows = [
        [
            each.name,
            *cells("{:.4g}", 1000 * each.median_s, 1000 * each.p95_s, each.images_per_second),
            *cells("{:.2f}", each.speedup),
            *cells("{:.0f}", each.peak_memory_mb),
            *cells("{:.0%}", each.matmul_share),
            *cells("{:.1f}", each.drift_db),
        ]
        for each in found
    ]
    return markdown_table(COLUMNS, rows)


def cells(form: str, *values: float | None) -> list[str]:
    """Returns the values as a table shows them."""
    return ["-" if value is None else form.format(value) for value in values]


def _drift(result: Tensor | None, reference: Tensor | None) -> float | None:
    if result is None or reference is None or torch.equal(result, reference):
        return None
    return float(10 * torch.log10(4 / (result - reference).square().mean()))


def _reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forgets the peak so far


def _peak_memory(device: torch.device) -> float | None:
    """Megabytes (10^6 bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(peak[1]) * 1024 / 1e6 if peak else None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return name[1] if name else platform.processor() or platform.machine()
