"""Train on a folder: python examples/train_on_folder.py OUTPUT [ITERATIONS].

The commands are those of a terminal. 20 iterations show that it works; real ones take 800 or more.
"""

import subprocess
import sys
from pathlib import Path

from davi.data.batches import open_images, validation_batch
from davi.data.images import save_image


def run(*words: object) -> None:
    """Runs a command of davi, as in a terminal."""
    subprocess.run([sys.executable, "-m", "davi", *map(str, words)], check=True)


output = Path(sys.argv[1])
iterations = sys.argv[2] if len(sys.argv) > 2 else "20"
for folder, count in {"train": 64, "tuning": 6}.items():  # here your own folders
    for number, image in enumerate(validation_batch(open_images(f"photos:{folder}", 64), count)):
        save_image(image, output / folder / f"{number:03d}.png")
settings = {
    "data.train": output / "train",
    "data.validation": output / "tuning",
    "train.num_iterations": iterations,
    "train.batch_size": 4,
    "train.num_validation_images": 6,
    "train.validate_every": iterations,
    "train.cooldown_iterations": 0,
    "train.ema_decay": 0.9,
}
flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
run("train", "photos_denoising", "--run-dir", output / "run", *flags)
folders = ["--input", output / "measured", "--output", output / "restored"]
run("degrade", "photos_denoising", "--input", output / "tuning", "--output", output / "measured")
run("sample", "--checkpoint", output / "run", *folders)
