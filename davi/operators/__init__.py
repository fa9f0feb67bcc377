"""The degradations A, one file each, the noise n, and y = A x + n."""
