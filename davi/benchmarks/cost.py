"""What the restoration of one image costs, for DAVI and for solvers that iterate (Tables 4, 13)."""

import statistics
from dataclasses import dataclass
from functools import cache, partial

import torch

from davi.benchmarks.ladders import sampling_rungs
from davi.benchmarks.measuring import count_flops, markdown_table, time_calls
from guided_diffusion.presets import PRESETS, Architecture

DAVI = "DAVI"
# Network evaluations per image, Table 13.
EVALUATIONS = {
    DAVI: 1,
    "DDRM": 20,
    "DDNM+": 100,
    "PiGDM": 100,
    "DiffPIR": 100,
    "DPS": 1000,
    "RED-diff": 1000,
    "FPS": 1000,
}
COLUMNS = ("method", "evaluations", "GMAC", "GFLOP", "seconds per image", "")
NOTES = """\
MAC: multiply-accumulate operations of convolutions and matrix products, each 2 FLOP. What the paper
calls FLOPs (Table 13: 194.7 G on FFHQ) are MACs.

Only DAVI is measured: Algorithm 2 in float32, batch 1. Extrapolated is the time of that many
evaluations of the network; a solver does more than that. DPS and PiGDM also differentiate through
the network: in Table 4 DPS takes 77.7 s and RED-diff 41.1 s, both for 1000 evaluations.
"""


@dataclass(frozen=True)
class Cost:
    """What one method spends on one image.

    Attributes:
        method: name.
        evaluations: of the network.
        macs: multiply-accumulate operations of its convolutions and matrix products.
        seconds: on this machine.
        measured: false if the seconds are extrapolated from those of DAVI.
    """

    method: str
    evaluations: int
    macs: int
    seconds: float
    measured: bool


@cache
def network_size(config: Architecture) -> tuple[int, int]:
    """Returns (parameters, multiply-accumulate operations per image) of a network."""
    network = config.empty().to("meta")  # shapes are all it takes
    with torch.device("meta"):
        image = torch.empty(1, config.in_channels, config.image_size, config.image_size)
        time = torch.zeros(1, dtype=torch.int64)
        flops = count_flops(partial(network, image, time))
    return sum(parameter.numel() for parameter in network.parameters()), flops // 2


def restoration_costs(preset: str, device: torch.device, repeats: int) -> list[Cost]:
    """Measures Algorithm 2 for one image, and returns what every method costs."""
    _, macs = network_size(PRESETS[preset])
    plain = next(sampling_rungs(preset, 1, device, "bf16", with_compile=False))
    work, _ = plain.build()
    seconds = statistics.median(time_calls(work, device, repeats))
    return [
        Cost(method, evaluations, evaluations * macs, evaluations * seconds, method == DAVI)
        for method, evaluations in EVALUATIONS.items()
    ]


def cost_table(preset: str, found: list[Cost]) -> str:
    """Returns a Markdown table, with what is to be said of the network and of the numbers."""
    parameters, macs = network_size(PRESETS[preset])
    rows = [
        [
            cost.method,
            str(cost.evaluations),
            f"{cost.macs / 1e9:.1f}",
            f"{2 * cost.macs / 1e9:.1f}",
            f"{cost.seconds:.{3 if cost.seconds < 1 else 1}f}",
            "measured" if cost.measured else "extrapolated",
        ]
        for cost in found
    ]
    return (
        f"Network {preset}: {parameters / 1e6:.2f} M parameters, {macs / 1e9:.2f} GMAC "
        f"({2 * macs / 1e9:.2f} GFLOP) per evaluation.\n\n{markdown_table(COLUMNS, rows)}\n{NOTES}"
    )
