"""Say what davi runs on here: what to paste into a report of a fault.

Versions, devices and the precisions that they have in hardware, and which weight files are there.
"""

import platform
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import davi
from davi.system.shipped import CHECKPOINTS, CONFIGS, shipped_folder, shipped_names

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pydantic", "safetensors", "lpips")


def add_arguments(parser: ArgumentParser) -> None:
    """Adds nothing: the command line takes nothing."""


def run(arguments: Namespace) -> None:
    """Prints a line for each fact."""
    for name, value in [*_versions(), *_devices(), *_weights()]:
        print(f"{name:<28}{value}")


def _versions() -> Iterator[tuple[str, str]]:
    yield "davi", f"{davi.__version__}, in {Path(davi.__file__).parent}"
    yield "python", f"{platform.python_version()}, {sys.executable}"
    yield "system", platform.platform()
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "not installed"


def _devices() -> Iterator[tuple[str, str]]:
    import torch

    from davi.benchmarks.measuring import machine

    facts = machine(torch.device("cpu"))
    yield "cpu", f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads used"
    yield "cpu precisions", ", ".join(["fp32", *_cpu_half_precisions()])
    yield "cuda", torch.version.cuda or "this torch has no CUDA"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = ", bf16" if properties.major >= 8 else ""  # since Ampere
        yield (
            f"cuda:{index}",
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, fp32, fp16{bf16}",
        )


def _cpu_half_precisions() -> list[str]:
    """Those for which the processor has instructions, as the kernel lists them."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return ["others not known on this system"]
    names = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16"}}
    return [precision for precision, any_of in names.items() if flags & any_of]


def _weights() -> Iterator[tuple[str, str]]:
    from davi.metrics.perceptual import WEIGHT_FILES, weight_path
    from davi.weights.downloads import PUBLIC_FILES

    yield "shipped configs", f"{shipped_folder(CONFIGS)}: {len(shipped_names(CONFIGS))}"
    names = ", ".join(shipped_names(CHECKPOINTS))
    yield "shipped networks", f"{shipped_folder(CHECKPOINTS)}: {names}"
    folder = Path("checkpoints")
    files = {name: folder / public.file for name, public in PUBLIC_FILES.items()}
    files |= {name: weight_path(name) for name in WEIGHT_FILES}
    for name, path in files.items():
        yield name, f"{'there ' if path.exists() else 'absent'}  {path}"
