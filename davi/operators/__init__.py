"""The degradations A by their singular value decomposition, the noise n, and y = A x + n."""
