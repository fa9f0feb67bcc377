"""The ADM UNet (Dhariwal and Nichol, 2021), compatible with the published checkpoints."""
