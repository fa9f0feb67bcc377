"""Draw images from a diffusion prior, to train on them in place of photographs (DAVI-G).

Writes OUTPUT/000/000000.png and so on, a thousand in each subfolder, and OUTPUT/manifest.jsonl.
Image number i depends on the seed and i only: bit for bit on a CPU, up to the rounding of its
kernels on a GPU. Running the command again does what is missing; --num-images may grow. Several
processes, on several GPUs, share the work when started by
`torchrun --nproc_per_node=N scripts/generate.py ...`.

ddpm  ancestral sampling, with the learned variance where the prior has one, otherwise with that of
      q(x_{t-1} | x_t, x_0)
ddim  without noise between start and end; good with far fewer steps
"""

import argparse
from pathlib import Path

from davi.commands.options import add_device, positive_int, run_main
from davi.folders.generating import generate_images, load_prior
from davi.schedule import NUM_STEPS
from davi.system.errors import InputError
from davi.system.files import sha256_of
from davi.system.world import FOLDER_PATIENCE, join_world


def parse_arguments() -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prior", type=Path, help="file of export.py, or ADM weights")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a new folder, or to go on in"
    )
    parser.add_argument("--num-images", type=positive_int, required=True)
    parser.add_argument("--sampler", choices=["ddpm", "ddim"], default="ddpm", help="default ddpm")
    parser.add_argument(
        "--num-steps",
        type=positive_int,
        default=NUM_STEPS,
        help=f"network evaluations per image (default {NUM_STEPS}, all of them)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--batch-size", type=positive_int, default=8, help="on a GPU (default 8)")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="default fp32"
    )
    add_device(parser)
    return parser.parse_args()


def main() -> int:
    """Parse, load, draw."""
    arguments = parse_arguments()
    if arguments.num_steps > NUM_STEPS:
        raise InputError(f"--num-steps {arguments.num_steps}: the prior knows {NUM_STEPS} times")
    with join_world(arguments.device, FOLDER_PATIENCE) as world:
        model, image_shape = load_prior(arguments.prior, world.device, arguments.precision)
        report = generate_images(
            model,
            image_shape,
            arguments.output,
            num_images=arguments.num_images,
            sampler=arguments.sampler,
            num_steps=arguments.num_steps,
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            origin={
                "prior_sha256": sha256_of(arguments.prior),
                "precision": arguments.precision,
            },
            world=world,
        )
    if world.is_first:
        report.print_summary("images drawn")
    return report.exit_code


if __name__ == "__main__":
    run_main(main)
