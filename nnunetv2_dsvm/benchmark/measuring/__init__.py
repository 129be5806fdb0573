"""How it is measured: time, memory, in which process, on which machine."""
