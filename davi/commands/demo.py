"""Show DAVI at work on real photographs: 4x super-resolution of photographs it never saw.

Degrades the held-out photographs, trains a generator for a few minutes from the shipped prior,
restores with it and with the shipped generator, scores everything, and writes one picture. Every
step is a command of its own, printed before it runs.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from davi.commands.options import positive_int, run_main
from davi.data.images import load_image, save_image
from davi.data.panel import titled_grid

CONFIG = "configs/photos_super_resolution.yaml"
SHIPPED = "checkpoints/photos_super_resolution.safetensors"
SHOWN = (  # held-out crops in the picture: whole objects, parts, textures
    "chelsea_r4_y008_x016",
    "chelsea_r2_y048_x096",
    "chelsea_r1_y064_x192",
    "coffee_r4_y032_x056",
    "coffee_r2_y080_x160",
    "coffee_r1_y160_x384",
)


def run(command: str) -> None:
    """Prints and runs one of the scripts; its failure ends the demo."""
    print(f"\n$ python scripts/{command}", flush=True)
    if code := subprocess.run([sys.executable, *shlex.split(f"scripts/{command}")]).returncode:
        sys.exit(code)


def main() -> None:
    """Parse, run the scripts, put table and picture together."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), help="default: demo")
    parser.add_argument("--iterations", type=positive_int, default=250, help="default: 250")
    arguments = parser.parse_args()
    output, folder = arguments.output, shlex.quote(str(arguments.output))
    fresh = f"fresh_{arguments.iterations}"  # so that a demo of another length starts anew

    run(f"degrade.py {CONFIG} --input photos:held_out --output {folder}/measured --baselines")
    run(  # in fp32, as bf16 is slow on many CPUs
        f"train.py {CONFIG} --run-dir {folder}/{fresh}"
        f" --set train.num_iterations={arguments.iterations} --set train.cooldown_iterations=0"
        " --set train.validate_every=50 --set train.save_every=50 --set train.precision=fp32"
    )
    for checkpoint, name in ((f"{folder}/{fresh}", fresh), (SHIPPED, "shipped")):
        run(
            f"sample.py --checkpoint {checkpoint} --input {folder}/measured"
            f" --output {folder}/restored_{name}"
        )

    methods = {
        "measurement, enlarged": "measured/lifted",
        "pseudo-inverse": "measured/pseudo_inverse",
        "DAVI, trained just now": f"restored_{fresh}",
        "DAVI, shipped": "restored_shipped",
    }
    for images in methods.values():
        run(
            f"eval.py --reference {folder}/measured/reference --restored {folder}/{images}"
            " --metrics psnr,ssim --overwrite"
        )
    print_table(
        [
            (method, json.loads((output / f"{images}-eval/summary.json").read_text()))
            for method, images in methods.items()
        ]
    )
    rows = {"measurement": "measured/measurement", **methods, "truth": "measured/reference"}
    pictures = {
        title: torch.stack([load_image(output / images / f"{name}.png") for name in SHOWN])
        for title, images in rows.items()
    }
    save_image(titled_grid(pictures, scale=2), output / "demo.png")
    print(f"\nMeasurements, restorations and truth side by side: {output / 'demo.png'}")


def print_table(rows: list[tuple[str, dict]]) -> None:
    """Prints mean and standard error of every method."""
    count = rows[0][1]["num_images"]
    print(f"\n4x super-resolution, noise 0.05, {count} crops of 2 held-out photographs")
    print(f"{'':<24}{'PSNR [dB]':>18}{'SSIM':>20}")
    for method, content in rows:
        cells = [
            f"{content['summary'][metric]['mean']:.{digits}f} +- "
            f"{content['summary'][metric]['standard_error']:.{digits}f}"
            for metric, digits in (("psnr", 2), ("ssim", 4))
        ]
        print(f"{method:<24}{cells[0]:>18}{cells[1]:>20}")


if __name__ == "__main__":
    run_main(main)
