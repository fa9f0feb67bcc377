"""The base of everything that is read from YAML and checked."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Values with types and ranges: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
