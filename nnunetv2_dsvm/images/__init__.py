"""What image files hold: grids, labels, and what readers keep to themselves."""
