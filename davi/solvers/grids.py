"""Which diffusion times a sampler visits."""

from davi.schedule import NUM_STEPS
from davi.solvers.prior import CLEAN


def stride_times(num_steps: int) -> list[int]:
    """Returns num_steps times in falling order, the multiples of 1000 // num_steps from 0 up.

    Source: DDRM, DDNM, PiGDM. With 20 steps the first time is 950, not 999. Where num_steps is no
    divisor of 1000, their code takes more steps than it was asked for; this takes num_steps.
    """
    stride = NUM_STEPS // num_steps
    return [index * stride for index in reversed(range(num_steps))]


def steps_of(times: list[int]) -> list[tuple[int, int]]:
    """Returns the reverse steps (t, s) from each time to the next one, the last to CLEAN."""
    return list(zip(times, [*times[1:], CLEAN], strict=True))
