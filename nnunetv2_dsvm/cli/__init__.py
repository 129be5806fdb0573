"""The command `nnUNetv2_dsvm` and its subcommands."""
