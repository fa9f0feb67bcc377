"""Files of trained networks, of this project and of others."""
