"""What several subcommands have in common; each subcommand is a module of the folder above."""
