"""Draw images from a diffusion prior, to train on them in place of photographs (DAVI-G).

Writes OUTPUT/000/000000.png and so on, a thousand in each subfolder, and OUTPUT/manifest.jsonl.
Image number i depends on the seed and i only: bit for bit on a CPU, up to the rounding of its
kernels on a GPU. Running the command again does what is missing; --num-images may grow. Several
processes, on several GPUs, share the work when started by
`torchrun --nproc_per_node=N -m davi generate ...`.

ddpm  ancestral sampling, with the learned variance where the prior has one, otherwise with that of
      q(x_{t-1} | x_t, x_0)
ddim  without noise between start and end; good with far fewer steps
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from davi.commands.options import add_device, network_file, positive_int
from davi.system.choices import PRECISIONS


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    parser.add_argument("prior", type=network_file, help="file of `davi export`, or ADM weights")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a new folder, or to go on in"
    )
    parser.add_argument("--num-images", type=positive_int, required=True)
    parser.add_argument("--sampler", choices=["ddpm", "ddim"], default="ddpm", help="default ddpm")
    parser.add_argument(
        "--num-steps",
        type=positive_int,
        help="network evaluations per image (default: as many as the prior has times, 1000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--batch-size", type=positive_int, default=8, help="on a GPU (default 8)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default fp32")
    add_device(parser)


def run(arguments: Namespace) -> int:
    """Loads the prior and draws."""
    from davi.folders.generating import generate_images, load_prior
    from davi.schedule import NUM_STEPS
    from davi.system.errors import InputError
    from davi.system.files import sha256_of
    from davi.system.world import FOLDER_PATIENCE, join_world

    num_steps = arguments.num_steps or NUM_STEPS
    if num_steps > NUM_STEPS:
        raise InputError(f"--num-steps {num_steps}: the prior knows {NUM_STEPS} times")
    with join_world(arguments.device, FOLDER_PATIENCE) as world:
        model, image_shape = load_prior(arguments.prior, world.device, arguments.precision)
        report = generate_images(
            model,
            image_shape,
            arguments.output,
            num_images=arguments.num_images,
            sampler=arguments.sampler,
            num_steps=num_steps,
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            origin={"prior_sha256": sha256_of(arguments.prior), "precision": arguments.precision},
            world=world,
        )
    if world.is_first:
        report.print_summary("images drawn")
    return report.exit_code
