"""What the authors' code adds to the paper."""
