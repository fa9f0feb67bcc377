"""The small parts of the training engine: background writing, finiteness, loss scale, signals."""

import os
import signal
import threading
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch

from davi.runs.finite import FiniteWatch
from davi.system.background import LatestJob
from davi.system.signals import StopRequest
from davi.training.learning_rate import RateShape
from davi.training.network_optimizer import NetworkOptimizer
from tests.tiny import tiny_trainer


def test_handing_over_a_job_never_waits_and_the_latest_is_done() -> None:
    writer, at_work, gate, done = LatestJob(), threading.Event(), threading.Event(), []
    writer.submit(lambda: (at_work.set(), gate.wait(timeout=10), done.append(0)))
    at_work.wait()
    replaced = []
    for number in (1, 2, 3):
        job = partial(done.append, number)
        replaced.append(weakref.ref(job))
        writer.submit(job)
    del job
    assert done == []
    assert [job() is None for job in replaced] == [True, True, False]  # their states are large
    gate.set()
    writer.close()
    assert done == [0, 3]


def test_a_failed_job_is_heard_of() -> None:
    writer = LatestJob()

    def fail() -> None:
        raise OSError("no space")

    writer.submit(fail)
    with pytest.raises(OSError, match="no space"):
        writer.close()
    with pytest.raises(OSError, match="no space"):
        writer.submit(fail)


def test_after_a_failed_job_the_one_that_waits_is_not_done() -> None:
    writer, at_work, gate, done = LatestJob(), threading.Event(), threading.Event(), []

    def fail_late() -> None:
        at_work.set()
        gate.wait(timeout=10)
        raise OSError("no space")

    writer.submit(fail_late)
    at_work.wait()
    writer.submit(partial(done.append, 1))
    gate.set()
    with pytest.raises(OSError, match="no space"):
        writer.close()
    assert done == []


def test_the_first_iteration_of_each_term_is_remembered() -> None:
    watch, good, bad = FiniteWatch(), torch.tensor(1.0), torch.tensor(torch.inf)
    assert watch.report() == {}
    watch.observe({"a": good, "b": good}, 0)
    assert watch.report() == {}
    watch.observe({"a": good, "b": bad}, 1)
    watch.observe({"a": good * torch.nan, "b": bad}, 2)
    watch.observe({"a": good, "b": good}, 3)
    assert watch.report() == {"a": 2, "b": 1}
    assert watch.take_count() == 2
    assert watch.report() == {}
    assert watch.take_count() == 0


def optimizer(precision: str) -> NetworkOptimizer:
    return NetworkOptimizer(
        torch.nn.Linear(3, 1),
        learning_rate=0.1,
        weight_decay=0.0,
        rate_shape=RateShape(warmup=0, cooldown=0, total=9),
        precision=precision,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_is_that_of_plain_adamw(precision: str) -> None:
    found = optimizer(precision)
    plain = torch.nn.Linear(3, 1)
    plain.load_state_dict(found.network.state_dict())
    reference = torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.0, foreach=False)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for iteration in range(3):
        found.begin(iteration)
        found.backward(found.network(x).square().mean())
        norm = found.step()
        reference.zero_grad()
        plain(x).square().mean().backward()
        flat = torch.cat([p.grad.flatten() for p in plain.parameters()])
        torch.testing.assert_close(norm, flat.norm())
        reference.step()
    for mine, its in zip(found.parameters, plain.parameters(), strict=True):
        torch.testing.assert_close(mine, its)


def test_half_precision_lowers_its_scale_until_gradients_fit() -> None:
    found = optimizer("fp16")
    before = [p.detach().clone() for p in found.parameters]
    found.scaler.load_state_dict({**found.scaler.state_dict(), "scale": 2.0**72})
    large = torch.full((1, 3), 1e17)  # times 2^72 it is infinity in float32, times 2^71 it is not
    norms = []
    for iteration in range(3):
        found.begin(iteration)
        found.backward(found.network(large).sum())
        norms.append(found.step().item())
        if iteration == 0:
            assert all(torch.equal(p, q) for p, q in zip(found.parameters, before, strict=True))
    assert norms[0] == 0  # left to the scaler
    assert found.scaler.get_scale() == 2.0**71
    assert norms[2] == pytest.approx(1e17 * 3**0.5, rel=1e-6)
    state = found.state_dict(keep=True)
    again = optimizer("fp16")
    again.load_state_dict(state)
    assert again.scaler.get_scale() == 2.0**71


def test_gradients_no_scale_can_help_are_reported() -> None:
    found = optimizer("fp16")
    found.scaler.load_state_dict({**found.scaler.state_dict(), "scale": 0.5})
    found.begin(0)
    found.backward(found.network(torch.full((1, 3), torch.inf)).sum())
    assert not found.step().isfinite()


def test_each_network_has_a_loss_scale_of_its_own(tiny_prior: Path) -> None:
    trainer = tiny_trainer(tiny_prior, "train.precision=fp16")
    assert trainer.generator_optimizer.scaler is not trainer.fake_score_optimizer.scaler
    assert trainer.generator_optimizer.scale_adapts
    state = trainer.state_dict(keep=True)
    assert "scale" in state["generator_optimizer"]["scaler"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_wish_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.received
        os.kill(os.getpid(), number)
        assert stop.received
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the next one ends the process
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before
