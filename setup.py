"""Package metadata of davi."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.*)"', (ROOT / "davi/__init__.py").read_text())[1]

setup(
    name="davi",
    version=VERSION,
    description="Diffusion prior-based amortized variational inference for noisy inverse problems",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["davi", "davi.*", "guided_diffusion"]),
        # Copies of these folders travel with the package, see davi/system/shipped.py.
        "davi.shipped.configs",
        "davi.shipped.checkpoints",
    ],
    package_dir={"davi.shipped.configs": "configs", "davi.shipped.checkpoints": "checkpoints"},
    package_data={
        "davi.data.photographs": ["*.jpg", "*.md"],
        "davi.tables": ["templates/*"],
        "davi.shipped.configs": ["**/*.yaml"],
        "davi.shipped.checkpoints": ["*.safetensors", "*.md"],
    },
    entry_points={"console_scripts": ["davi = davi.__main__:main"]},
    install_requires=[
        "torch>=2.11",
        "torchvision",
        "numpy",
        "scipy",
        "pyyaml",
        "tqdm",
        "filelock>=3.30",  # fallback_to_soft
        "gdown>=6.4",  # finds files in Google Drive folders by their names
        "requests",
        "urllib3>=2.2",  # HTTPResponse.read1
        "pillow>=10.1",
        "lpips",
        "pytorch-fid",
        "tifffile",  # writes 16-bit colour; scikit-image needs it, too
        "pydantic>=2",
        "jinja2>=3",  # forms of the tables
        "scikit-image",  # photographs of the embedded data set, the estimate of noise
        "pywavelets",  # what scikit-image estimates noise with
        "scikit-learn",  # two more photographs
        "safetensors",
        "tensorboard",
    ],
    extras_require={
        "diffusers": ["diffusers>=0.35"],  # its UNets as priors
        "onnx": ["onnx", "onnxruntime", "onnxscript"],  # davi export --format onnx, and its use
        "app": ["gradio>=6"],  # davi app; its tests are skipped without
        "bm3d": ["bm3d>=4"],  # a row of the tables; its licence is for non-commercial use
        "hub": ["huggingface_hub>=1.0"],  # hf:user/name as a checkpoint, davi push
        "deepinv": ["deepinv>=0.5"],  # davi/interop; its tests are skipped without
        "dev": [
            "deepinv>=0.5",
            "diffusers>=0.35",
            "huggingface_hub>=1.0",
            "ipykernel",  # runs the notebooks, by nbclient
            "nbclient",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "piq",  # its LPIPS is what the release evaluates with
            "pytest",
            "pytest-xdist",
            "ruff",
            "setuptools",
            "wheel",
            "webdataset",
            "braceexpand",
        ],
        # make docs; matplotlib for docs/convergence.py alone
        "docs": ["mkdocs>=1.6", "mkdocs-material", "mkdocstrings[python]", "ruff", "matplotlib"],
        "shards": ["webdataset", "braceexpand"],  # data.train=shards/{000..009}.tar
        "tracking": ["wandb"],
    },
)
