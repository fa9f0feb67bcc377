"""Diffusion priors: read from a file, trained, sampled from, and the analytic one of a Gaussian."""
