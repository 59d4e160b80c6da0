"""How work is run: units, steps, executors, runtime options, progress. Nothing here can change a result."""
