"""Fast gradient steps: engines, executors, stacks, random streams, placement."""
