"""Degradation operators by singular value decomposition, one file a task."""
