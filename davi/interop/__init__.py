"""Other libraries' operators and methods here, and ours there."""
