"""What is seen: napari and Qt live here and nowhere else."""
