"""Images and measurements: in folders, archives and files, as batches, prepared, shown."""
