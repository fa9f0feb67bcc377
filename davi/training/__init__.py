"""What the trainers are made of: average, optimiser, learning rate, adversary, regression."""
