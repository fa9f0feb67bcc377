"""The paper's tables: every method measured in one way, next to the paper's numbers."""
