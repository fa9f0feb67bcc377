"""The base of everything that is read from YAML and checked, and the types of its fields."""

import os.path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Values with types and ranges: frozen; unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def _some_text(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("some text is needed, without NUL characters")
    return text


# Bounds are far beyond what anybody runs; they keep a slip or a damaged file from taking the
# machine's memory.
Text = Annotated[str, Field(max_length=4096), AfterValidator(_some_text)]
FilePath = Annotated[Text, AfterValidator(os.path.expanduser)]
# A path, or the mask itself as text, see `operators.mask_text`: one bit a pixel.
MaskPath = Annotated[
    str,
    Field(max_length=2**20),
    AfterValidator(_some_text),
    AfterValidator(os.path.expanduser),
]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Count = Annotated[int, Field(gt=0, le=10**9)]
BatchSize = Annotated[int, Field(gt=0, le=2**16)]
Pixels = Annotated[int, Field(gt=0, le=2048)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
TermWeight = Annotated[float, Field(ge=0, le=10**6)]  # in a loss
