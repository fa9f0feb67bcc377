"""The costs of Tables 4 and 13."""

import pytest
import torch

from davi.benchmarks.cost import cost_table, network_size, restoration_costs
from guided_diffusion.presets import PRESETS


@pytest.mark.parametrize(
    ("preset", "parameters", "giga_macs"),
    [("ffhq_256", 93_563_910, 193.97), ("imagenet_256", 552_814_086, 1119.8)],
)
def test_sizes_are_those_of_the_published_networks(
    preset: str, parameters: int, giga_macs: float
) -> None:
    found, macs = network_size(PRESETS[preset])
    assert found == parameters
    assert macs / 1e9 == pytest.approx(giga_macs, rel=1e-4)


def test_the_count_on_ffhq_is_that_of_table_13_within_what_it_leaves_out() -> None:
    assert network_size(PRESETS["ffhq_256"])[1] == pytest.approx(194.7e9, rel=5e-3)


def test_others_are_extrapolated_by_their_evaluations() -> None:
    found = {
        cost.method: cost for cost in restoration_costs("photos_64", torch.device("cpu"), repeats=1)
    }
    davi = found["DAVI"]
    assert davi.evaluations == 1
    assert davi.macs == network_size(PRESETS["photos_64"])[1]
    assert [cost.method for cost in found.values() if cost.measured] == ["DAVI"]
    for method, evaluations in (("DDRM", 20), ("DiffPIR", 100), ("DPS", 1000)):
        assert found[method].macs == evaluations * davi.macs
        assert found[method].seconds == pytest.approx(evaluations * davi.seconds)
    table = cost_table("photos_64", list(found.values()))
    assert "4.36 M parameters" in table
    assert table.count("| measured |") == 1
    assert table.count("| extrapolated |") == 7
