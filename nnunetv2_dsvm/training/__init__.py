"""nnU-Net's side: the trainers, their variants, the recipe."""
