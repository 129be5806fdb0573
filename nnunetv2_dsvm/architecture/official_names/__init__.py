"""Pure maps between the parameter names of official code and ours, a module a network."""
