"""The subcommands, a module each: it parses, calls a function of another room, and shows."""
