"""Other networks of the Vision-Mamba family, a file each, and `registry`, which names them."""
