"""The result of training does not depend on how many processes did it, nor how."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from davi.runs.build import build_images, build_trainer
from davi.runs.loop import run_training
from davi.runs.run_folder import RunFolder
from davi.system.errors import InputError
from davi.system.parallel import full_state, load_full_state, replicated
from davi.system.world import World
from davi.weights.network_file import read_training_checkpoint
from guided_diffusion.presets import create_unet
from tests.processes import in_world
from tests.tiny import ALONE, move_fake_score, tiny_config, write_tiny_prior

ITERATIONS = 8
# Two channels in each group of the norms. With one, the norm would take away whatever the bias
# before it adds; such a bias has no gradient but rounding errors, which Adam makes steps of.
WIDTH = "network.model_channels=64"
SETTINGS = (
    WIDTH,
    "generator.sees_measurement=true",
    "fake_score.sees_measurement=true",
    "data.flip=true",
    "train.batch_size=12",
    "train.log_every=1",
    "train.num_validation_images=2",
)


def train(world: World, folder: Path, prior: Path, last: int, *overrides: str) -> None:
    """Trains as `davi train` does."""
    overrides = (*SETTINGS, f"train.num_iterations={last}", f"train.save_every={last}", *overrides)
    config = tiny_config(prior, *overrides)
    run = world.on_first(lambda: RunFolder(folder, config, {}))
    trainer = build_trainer(config, world)
    move_fake_score(trainer)  # else what moves the generator at first are rounding errors
    run_training(
        trainer,
        build_images(config, "train"),
        run,
        seed=config.seed,
        data=config.data,
        settings=config.train,
        world=world,
    )


def trajectory(folder: Path) -> Tensor:
    """The loss terms of every iteration."""
    lines = [json.loads(line) for line in (folder / "stats.jsonl").open()]
    terms = ("fake_score_loss", "consistency", "regulariser", "score_gap", "generator_gradient")
    return torch.tensor([[line[name] for name in terms] for line in lines if "consistency" in line])


def final_state(folder: Path) -> dict[str, Any]:
    return read_training_checkpoint(sorted((folder / "checkpoints").glob("*.pt"))[-1])


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Relative to the norm of the second."""
    flat = [
        torch.cat([value.double().flatten() for value in each.values()]) for each in (first, second)
    ]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_prior(tmp_path_factory.mktemp("prior") / "prior.safetensors", WIDTH)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, prior: Path) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train(ALONE, folder, prior, ITERATIONS)
    return folder


def train_all(world: World, folder: Path, prior: Path, jobs: dict[str, tuple]) -> None:
    """Trains one run after the other; to start processes takes longer than a run."""
    for name, (last, *overrides) in jobs.items():
        train(world, folder / name, prior, last, *overrides)


@pytest.fixture(scope="module")
def posterior_alone(tmp_path_factory: pytest.TempPathFactory, prior: Path) -> Path:
    folder = tmp_path_factory.mktemp("posterior_alone")
    train(ALONE, folder, prior, ITERATIONS, "recipe=posterior")
    return folder


@pytest.fixture(scope="module")
def by_three(tmp_path_factory: pytest.TempPathFactory, prior: Path, alone: Path) -> Path:
    """Runs of three processes, one of which goes on with the half of a run of one process."""
    folder = tmp_path_factory.mktemp("by_three")
    fsdp = "train.parallel=fsdp"
    train(ALONE, folder / "begun_alone", prior, ITERATIONS // 2)
    jobs = {
        "ddp": (ITERATIONS, "train.num_micro_batches=4"),
        "fsdp": (ITERATIONS, fsdp, "train.num_micro_batches=4"),
        "ended_alone": (ITERATIONS // 2, fsdp),
        "begun_alone": (ITERATIONS, fsdp),
    }
    in_world(3, train_all, folder, prior, jobs)
    train(ALONE, folder / "ended_alone", prior, ITERATIONS)
    return folder


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory, prior: Path) -> Path:
    """Runs of two processes."""
    folder = tmp_path_factory.mktemp("by_two")
    fsdp = ("train.parallel=fsdp", "train.shard_prior=true")
    posterior = ("recipe=posterior", "train.num_micro_batches=2")
    jobs = {
        "ddp": (ITERATIONS,),
        "fsdp": (ITERATIONS, *fsdp),
        "posterior_ddp": (ITERATIONS, *posterior),
        "posterior_fsdp": (ITERATIONS, *posterior, *fsdp),
    }
    in_world(2, train_all, folder, prior, jobs)
    return folder


def assert_trained_alike(run: Path, alone: Path) -> None:
    """Every loss term of every iteration, and the weights in the end."""
    torch.testing.assert_close(trajectory(run), trajectory(alone), rtol=1e-5, atol=0)
    assert_ended_alike(run, alone)


def assert_ended_alike(run: Path, alone: Path) -> None:
    found, expected = final_state(run), final_state(alone)
    for name in ("generator", "fake_score", "ema"):
        assert distance(found[name], expected[name]) < 1e-5


@pytest.mark.slow
def test_training_does_not_depend_on_micro_batches(
    alone: Path, tmp_path: Path, prior: Path
) -> None:
    train(ALONE, tmp_path, prior, ITERATIONS, "train.num_micro_batches=4")
    assert_trained_alike(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_training_does_not_depend_on_the_processes(
    parallel: str, alone: Path, by_two: Path, by_three: Path
) -> None:
    """Three of them go through four micro-batches each; two of them shard the prior, too."""
    for folder in (by_two, by_three):
        assert_trained_alike(folder / parallel, alone)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_training_towards_a_posterior_does_not_depend_on_the_processes(
    parallel: str, posterior_alone: Path, by_two: Path
) -> None:
    assert_trained_alike(by_two / f"posterior_{parallel}", posterior_alone)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["begun_alone", "ended_alone"])
def test_a_checkpoint_serves_every_number_of_processes(
    run: str, alone: Path, by_three: Path
) -> None:
    """The other half of the training was that of three processes with sharded weights."""
    assert_ended_alike(by_three / run, alone)


def _release_weights(world: World, prior: Path) -> dict[str, Tensor]:
    """Generator and discriminator of this process after two iterations of the release's recipe."""
    overrides = ("recipe=release", "network.out_channels=6", "train.precision=fp32")
    config = tiny_config(prior, *overrides, "train.num_micro_batches=2", "train.batch_size=8")
    trainer = build_trainer(config, world)
    x0 = torch.stack([build_images(config, "train")[100 * index] for index in range(8)])
    share = slice(trainer.shares[0].start, trainer.shares[-1].stop)
    for iteration in range(2):
        terms = trainer.train_step(x0[share], iteration)
    assert all(value.isfinite() for value in terms.values())
    networks = {"generator": trainer.generator.network, "adversary": trainer.adversary.network}
    return {
        name: torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
        for name, network in networks.items()
    }


@pytest.mark.slow
def test_processes_of_a_release_run_stay_the_same(tiny_prior_with_variance: Path) -> None:
    first, second = in_world(2, _release_weights, tiny_prior_with_variance)
    for name, weights in first.items():
        assert torch.equal(weights, second[name])


def _train_counting_graphs(world: World, folder: Path, prior: Path, *overrides: str) -> int:
    """Trains compiled, by a backend that changes nothing and counts."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    original = torch.nn.Module.compile
    torch.nn.Module.compile = lambda module: original(module, backend=backend)
    train(world, folder, prior, ITERATIONS, "train.compile=true", *overrides)
    return len(graphs)


@pytest.mark.slow
def test_sharded_blocks_are_all_compiled(alone: Path, tmp_path: Path, prior: Path) -> None:
    (count,) = in_world(1, _train_counting_graphs, tmp_path, prior, "train.parallel=fsdp")
    blocks = len(create_unet(tiny_config(prior, *SETTINGS).network.unet()).blocks)
    assert count >= 2 * blocks  # of two networks that learn, at the least
    assert_ended_alike(tmp_path, alone)


def test_a_batch_too_small_for_the_processes_is_refused(prior: Path) -> None:
    crowd = World(0, 8, torch.device("cpu"))
    with pytest.raises(InputError, match="8 of them with 2 micro-batches each need at least 16"):
        build_trainer(tiny_config(prior, *SETTINGS, "train.num_micro_batches=2"), crowd)


def test_moments_lie_in_memory_as_their_weights_do() -> None:
    """Fused AdamW takes that for granted; a checkpoint of sharded weights is laid out otherwise."""
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    parameter = torch.nn.Parameter(weight)
    optimizer = torch.optim.AdamW([parameter], fused=True)
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    state = full_state(optimizer, keep=True)
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"].contiguous()
    expected = optimizer.state[parameter]["exp_avg"].clone()
    load_full_state(optimizer, state)
    loaded = optimizer.state[parameter]["exp_avg"]
    assert torch.equal(loaded, expected)
    assert loaded.stride() == parameter.stride()


def test_networks_learn_in_the_layout_that_a_cpu_is_quick_with() -> None:
    network = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    assert replicated(network, ALONE).weight.is_contiguous()
