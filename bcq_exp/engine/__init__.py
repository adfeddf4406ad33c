"""How gradient steps are taken fast: engines, executors, stacks, random streams, placement."""
