"""Pure maps between the parameter names of the official codes and ours, a module a network."""
