"""Learning from patches around the voxels that somebody labelled."""
