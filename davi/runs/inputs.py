"""What a run is made from: the files and images that its configuration names."""

from pathlib import Path
from typing import Any

from davi.build import mask_sha256
from davi.config.network import CustomNetworkConfig
from davi.config.problem import BksConfig, CustomOperatorConfig, InpaintingConfig
from davi.config.schema import PriorRunConfig
from davi.runs.build import AnyRunConfig, build_images
from davi.system.files import sha256_of


def input_record(config: AnyRunConfig) -> dict[str, Any]:
    """Returns {key: SHA-256 of the file, or fingerprint of the images, that it names}."""
    record = {
        f"data.{split}": build_images(config, split).fingerprint()
        for split in ("train", "validation")
    }
    if isinstance(config, PriorRunConfig):
        record |= {"init": sha256_of(config.init_path)} if config.init else {}
    else:
        record["prior.checkpoint"] = sha256_of(config.prior.path)
        if isinstance(config.operator, InpaintingConfig) and config.operator.path is not None:
            record["operator.path"] = mask_sha256(config.operator.path)
        if isinstance(config.operator, CustomOperatorConfig):
            record["operator.file"] = sha256_of(Path(config.operator.file))
        if isinstance(config.operator, BksConfig):
            record["operator.weights"] = sha256_of(Path(config.operator.weights))
    if isinstance(config.network, CustomNetworkConfig):
        record["network.file"] = sha256_of(Path(config.network.file))
    return record
