"""Measuring speed, memory and exactness, and what is measured."""
