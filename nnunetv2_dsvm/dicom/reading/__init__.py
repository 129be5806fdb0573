"""Which series there are, whether one is a volume that can be segmented, and its voxels in space."""
