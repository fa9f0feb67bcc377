"""Scores of restored images, and how each is defined."""
