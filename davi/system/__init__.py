"""What lies under everything: errors, files, devices, processes, threads."""
