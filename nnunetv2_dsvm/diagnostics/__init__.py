"""What `nnUNetv2_dsvm doctor` looks at. Needs neither nnU-Net nor a working installation."""
