"""`nnUNetv2_dsvm quickstart`: the main job on real CT, in one place; `quickstart.run.quickstart` is it as a call."""
