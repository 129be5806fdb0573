"""`nnUNetv2_dsvm quickstart`: the main job on real CT, in one place."""
