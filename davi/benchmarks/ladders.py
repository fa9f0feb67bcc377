"""What `davi benchmark` measures: one speed-up after the other, with random weights."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from davi.benchmarks.measuring import Rung
from davi.build import image_shape
from davi.config.schema import RunConfig
from davi.config.yaml_file import parse_config
from davi.data.batches import open_images, training_batches
from davi.data.image_sets import ImageSet
from davi.data.images import save_image, to_uint8
from davi.folders.restoring import restore_folder
from davi.operators.measurement import lift
from davi.restorer import Restorer
from davi.runs.build import assemble_trainer
from davi.sampler import posterior_sample
from davi.system.world import World
from guided_diffusion.presets import Architecture

WEIGHT_NOISE = 0.02  # standard deviation, on top of the initialisation, which has zeros in it
PHOTO_SIDE = 512  # pixels of the images that reading is measured with
OPERATORS = {
    "denoising": {"name": "denoising"},
    "inpainting": {"name": "inpainting", "box_size": 32},
    "super-resolution 4x": {"name": "super_resolution", "factor": 4},
    "Gaussian blur": {"name": "gaussian_blur"},
    "colorization": {"name": "colorization"},
}


def benchmark_config(
    preset: str, batch_size: int, task: str = "super-resolution 4x", **train: object
) -> RunConfig:
    """Returns a run of one of the `OPERATORS` with a network of the given preset."""
    values = {
        "network": {"preset": preset},
        "prior": {"checkpoint": "random"},
        "operator": OPERATORS[task],
        "noise": {"name": "gaussian", "sigma": 0.05},
        "loss": {"gamma": 1.0, "reg": 1.0},
        "data": {},
        "train": {"num_iterations": 1000, "batch_size": batch_size, **train},
    }
    return parse_config(values, RunConfig, "benchmark")


def random_network(unet: Architecture) -> nn.Module:
    """Returns a network none of whose weights is zero, in evaluation mode on the CPU."""
    torch.manual_seed(0)
    network = unet.create().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(WEIGHT_NOISE * torch.randn_like(parameter))
    return network


def training_rungs(
    preset: str, batch_size: int, device: torch.device, precision: str, with_compile: bool
) -> Iterator[Rung]:
    """Yields a step of Algorithm 1, from the plainest to the fastest, and its necessary part.

    The first rung evaluates the generator once more, as a step does that shares no forward.
    """
    rung = partial(_training_rung, preset, batch_size, device)
    yield rung("eager fp32, generator twice", twice=True, plain=True)
    yield rung("generator once", plain=True)
    yield rung("+ channels_last")
    yield rung(f"+ {precision}", precision=precision)
    if with_compile:
        yield rung("+ compile", precision=precision, compile=True)
    yield rung(
        f"necessary forwards and backwards, {precision}{', compiled' if with_compile else ''}",
        precision=precision,
        compile=with_compile,
        only_networks=True,
    )


def _training_rung(
    preset: str,
    batch_size: int,
    device: torch.device,
    name: str,
    *,
    twice: bool = False,
    plain: bool = False,
    only_networks: bool = False,
    precision: str = "fp32",
    compile: bool = False,
) -> Rung:
    def build() -> tuple[Callable[[], object], Callable[[], Tensor]]:
        config = benchmark_config(preset, batch_size, precision=precision, compile=compile)
        shape = image_shape(config)
        world = World(0, 1, device)
        validation = torch.zeros(1, *shape, dtype=torch.float32)
        trainer = assemble_trainer(config, random_network(config.network.unet()), validation, world)
        for network in (trainer.generator, trainer.fake_score, trainer.prior, trainer.ema):
            network.to(memory_format=torch.contiguous_format if plain else torch.channels_last)
        x0 = (torch.rand(batch_size, *shape, dtype=torch.float32) * 2 - 1).to(device)
        inputs = trainer.inputs.draw(x0, range(batch_size), "benchmark")

        def step() -> None:
            if twice:
                with torch.no_grad():
                    trainer.generator(x0, inputs.a)
            trainer.train_step(x0, 0)

        def networks() -> None:
            for optimizer in (trainer.generator_optimizer, trainer.fake_score_optimizer):
                optimizer.begin(0)
            trainer.fake_score.eps(x0, inputs.t).mean().backward()
            trainer.generator(x0, inputs.a).mean().backward()
            with torch.no_grad():
                trainer.fake_score.eps(x0, inputs.t)
                trainer.prior.eps(x0, inputs.t)

        @torch.no_grad()
        def restoration() -> Tensor | None:
            return None if only_networks else trainer.generator(x0, inputs.a)

        return (networks if only_networks else step), restoration

    return Rung(name=name, build=build, num_images=batch_size, precision=precision)


def sampling_rungs(
    preset: str, batch_size: int, device: torch.device, precision: str, with_compile: bool
) -> Iterator[Rung]:
    """Yields Algorithm 2 for one batch, from plain float32 to everything."""
    rung = partial(_sampling_rung, preset, batch_size, device)
    yield rung("eager fp32")
    yield rung("channels_last", channels_last=True)
    yield rung(f"{precision}, channels_last", precision=precision)
    if device.type == "cuda":
        yield rung(f"{precision}, channels_last, CUDA graph", precision=precision, graph=True)
    if with_compile:
        yield rung(f"{precision}, compiled", precision=precision, compile=True)


def _sampling_rung(
    preset: str,
    batch_size: int,
    device: torch.device,
    name: str,
    *,
    precision: str = "fp32",
    channels_last: bool = False,
    graph: bool = False,
    compile: bool = False,
) -> Rung:
    def build() -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        config = benchmark_config(preset, batch_size)
        restorer = Restorer(
            config,
            random_network(config.network.unet()),
            device,
            precision,
            size=None,
            compile=compile,
        )
        if channels_last:
            restorer.generator.to(memory_format=torch.channels_last)
        shape = restorer.image_shape
        rng = torch.Generator().manual_seed(1)
        y = (
            torch.rand(batch_size, *restorer.measurement_shape, generator=rng, dtype=torch.float32)
            * 2
            - 1
        )
        z = torch.randn(batch_size, *shape, generator=rng, dtype=torch.float32).to(device)
        y_image = lift(y, shape).to(device)

        @torch.no_grad()
        def sample() -> Tensor:
            return posterior_sample(restorer.generator, restorer.bridge, y_image, z)

        work = _captured(sample) if graph else sample
        return work, work

    return Rung(name=name, build=build, num_images=batch_size, precision=precision)


def _captured(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same work as one CUDA graph, which the host starts with a single call."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries set themselves up before the capture
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def _without_outcome(
    name: str, work: Callable[[], object], num_images: int, comparable: bool = False
) -> Rung:
    return Rung(
        name=name, build=lambda: (work, lambda: None), num_images=num_images, comparable=comparable
    )


def folder_rungs(
    preset: str, num_images: int, device: torch.device, workspace: Path
) -> Iterator[Rung]:
    """Yields the network alone, and the same images from folder to folder."""
    config = benchmark_config(preset, 1)
    restorer = Restorer(config, random_network(config.network.unet()), device)
    y = torch.rand(num_images, *restorer.measurement_shape, dtype=torch.float32) * 2 - 1
    (workspace / "input").mkdir()
    for number, image in enumerate(y):
        save_image(image, workspace / "input" / f"{number:05d}.png")
    outputs = (workspace / f"output_{number}" for number in itertools.count())

    def from_folder_to_folder() -> None:
        restore_folder(
            restorer,
            workspace / "input",
            next(outputs),
            num_samples=1,
            batch_size=8,
            seed=0,
            world=World(0, 1, device),
        )

    alone = partial(restorer.restore, y)
    yield _without_outcome("network alone", alone, num_images, comparable=True)
    yield _without_outcome("folder to folder", from_folder_to_folder, num_images, comparable=True)


def data_rungs(preset: str, num_images: int, num_workers: int, workspace: Path) -> Iterator[Rung]:
    """Yields the reading of 512x512 photographs, in one process and by workers."""
    size = benchmark_config(preset, 1).network.unet().image_size
    photographs = open_images("photos:train", 64)
    for suffix in ("png", "jpg"):
        (workspace / suffix).mkdir()
        for number in range(num_images):
            photograph = nn.functional.interpolate(photographs[50 * number][None], size=PHOTO_SIDE)
            pixels = to_uint8(photograph[0]).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(workspace / suffix / f"{number:05d}.{suffix}")
        images = open_images(str(workspace / suffix), size)
        yield _without_outcome(suffix, partial(_read_all, images), num_images)
        by_workers = partial(_read_by_workers, images, num_workers)
        yield _without_outcome(f"{suffix}, {num_workers} workers", by_workers, num_images)


def _read_all(images: ImageSet) -> None:
    for index in range(len(images)):
        _ = images[index]


def _read_by_workers(images: ImageSet, num_workers: int) -> None:
    batches = training_batches(
        images,
        batch_size=1,
        seed=0,
        flip=False,
        num_workers=num_workers,
        first_iteration=0,
        num_iterations=len(images),
    )
    for _ in batches:
        pass
