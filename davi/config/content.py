"""What a record says of an operator: the content of its files, wherever they lie."""

from pathlib import Path
from typing import Any

from davi.config.schema import CustomOperatorConfig, InpaintingConfig, OperatorConfig
from davi.system.files import sha256_of


def operator_files(operator: OperatorConfig) -> dict[str, str]:
    """Returns the SHA-256 of the mask or code that an operator is read from, {} if it is not."""
    if isinstance(operator, CustomOperatorConfig):
        return {"file": sha256_of(Path(operator.file))}
    if isinstance(operator, InpaintingConfig) and operator.path is not None:
        return {"mask_sha256": sha256_of(Path(operator.path))}
    return {}


def operator_record(operator: OperatorConfig) -> dict[str, Any]:
    """Returns the values of an operator, with the content of its files in place of their paths."""
    return operator.model_dump(mode="json", exclude={"path"}) | operator_files(operator)
