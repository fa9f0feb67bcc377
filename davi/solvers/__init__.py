"""Methods that solve noisy inverse problems with a diffusion prior, one file each."""
