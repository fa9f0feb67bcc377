"""Package metadata of davi."""

from pathlib import Path

from setuptools import setup

setup(
    name="davi",
    version="0.1.0",
    description="Diffusion prior-based amortized variational inference for noisy inverse problems",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=["davi", "davi.operators", "guided_diffusion"],
    install_requires=[
        "torch>=2.11",
        "torchvision",
        "numpy",
        "scipy",
        "pyyaml",
        "tqdm",
        "filelock",
        "gdown>=6.4",  # finds files in Google Drive folders by their names
        "pillow>=10.1",
        "lpips",
        "pytorch-fid",
        "pydantic>=2",
        "scikit-image",  # photographs of the embedded data set
        "scikit-learn",  # two more photographs
        "safetensors",
        "tensorboard",
    ],
    extras_require={
        "dev": [
            "piq",  # its LPIPS is what the release evaluates with
            "pytest",
            "pytest-xdist",
            "ruff",
            "setuptools",
            "wheel",
            "webdataset",
            "braceexpand",
        ],
        "shards": ["webdataset", "braceexpand"],  # data.train=shards/{000..009}.tar
        "tracking": ["wandb"],
    },
)
