"""The measuring itself: what is timed, compared and written down."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from davi.benchmarks.ladders import benchmark_config, random_network, training_rungs
from davi.benchmarks.measuring import Rung, climb, machine, matmul_peak, to_table, write_report
from davi.system.errors import InputError

CPU = torch.device("cpu")
REPEATS = 5


@pytest.fixture(autouse=True)
def _small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("davi.benchmarks.measuring.MATMUL_SIZES", {"cpu": (64,)})


def rung(name: str, seconds: float, result: torch.Tensor | None, clock: list) -> Rung:
    """Work that lets the clock go on by so many seconds."""

    def work() -> None:
        clock[0] += seconds

    return Rung(name=name, build=lambda: (work, lambda: result), num_images=3)


def test_times_speed_and_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    image = torch.zeros(10)
    rungs = [
        rung("slow", 4.0, image, clock),
        rung("fast", 1.0, image + 0.2, clock),
        rung("same", 2.0, image.clone(), clock),
        rung("nothing", 2.0, None, clock),
    ]
    slow, fast, same, nothing = climb(rungs, CPU, REPEATS)
    assert (slow.median_s, slow.p95_s, slow.images_per_second) == (4.0, 4.0, 0.75)
    assert (slow.speedup, fast.speedup, same.speedup) == (1.0, 4.0, 2.0)
    assert fast.drift_db == pytest.approx(10 * math.log10(4 / 0.04))
    assert slow.drift_db is same.drift_db is nothing.drift_db is None
    assert slow.matmul_share is None


def test_median_and_p95_are_of_the_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first calls (result, warm-up) are not timed."""
    clock, durations = [0.0], itertools.chain([100.0, 100.0], [1.0, 2.0, 3.0, 4.0, 11.0])
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def work() -> None:
        clock[0] += next(durations)

    build = lambda: (work, lambda: None)  # noqa: E731
    (found,) = climb([Rung(name="x", build=build, num_images=1)], CPU, REPEATS)
    assert found.median_s == 3.0
    assert found.p95_s == pytest.approx(4.0 + 0.8 * 7.0)  # linear between the two largest


def test_the_share_of_the_peak_counts_products(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("davi.benchmarks.measuring.matmul_peak", lambda device, precision: 1000.0)
    a = torch.randn(10, 10)

    def work() -> None:
        a @ a  # 2000 operations
        clock[0] += 8.0

    build = lambda: (work, lambda: None)  # noqa: E731
    (found,) = climb([Rung(name="x", build=build, num_images=1, precision="fp32")], CPU, 2)
    assert found.matmul_share == pytest.approx(2000 / 8 / 1000)


def test_peak_memory_sees_a_large_tensor() -> None:
    def grow() -> None:
        torch.zeros(50_000_000).add_(1)  # 200 MB

    small = Rung(name="small", build=lambda: (lambda: None, lambda: None), num_images=1)
    large = Rung(name="large", build=lambda: (grow, lambda: None), num_images=1)
    before, after, again = climb([small, large, small], CPU, 1)
    if before.peak_memory_mb is None:
        pytest.skip("this system does not tell")
    assert after.peak_memory_mb - before.peak_memory_mb > 150
    assert again.peak_memory_mb < after.peak_memory_mb - 150  # the peak is that of each rung


def test_the_peak_is_a_rate() -> None:
    assert 1e7 < matmul_peak(CPU, "fp32") < 1e14


def test_a_report_is_not_overwritten(tmp_path: Path) -> None:
    work = Rung(name="x", build=lambda: (lambda: None, lambda: None), num_images=1)
    found = climb([work], CPU, 1)
    path = tmp_path / "new" / "report.json"
    table = to_table(found)
    write_report(path, "title", machine(CPU), found, table)
    content = json.loads(path.read_text())
    assert content["machine"]["torch"] == torch.__version__
    assert path.with_suffix(".md").read_text() == table
    path.unlink()
    with pytest.raises(InputError, match=r"report\.md: exists"):
        write_report(path, "title", machine(CPU), found, table)


def test_no_weight_of_the_network_is_zero() -> None:
    """With those of the initialisation every result would be the same, whatever the precision."""
    config = benchmark_config("photos_64", 1)
    for parameter in random_network(config.network.unet()).parameters():
        assert (parameter != 0).float().mean() > 0.99


@pytest.mark.slow
def test_the_first_training_rung_runs_the_generator_twice() -> None:
    calls = []
    for each in itertools.islice(training_rungs("photos_64", 1, CPU, "bf16", False), 2):
        work, outcome = each.build()
        (trainer,) = [
            cell.cell_contents
            for cell in work.__closure__
            if type(cell.cell_contents).__name__ == "DaviTrainer"
        ]
        count = []
        trainer.generator.network.register_forward_hook(lambda *_, count=count: count.append(1))
        work()
        calls.append(len(count))
        assert outcome().shape == (1, 3, 64, 64)
    assert calls == [2, 1]
