"""What `nnUNetv2_dsvm doctor` and `trainers` look at.

Importing it needs neither torch nor nnU-Net: either may be what is broken.
"""
