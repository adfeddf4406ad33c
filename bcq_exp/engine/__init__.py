"""How gradient steps are taken fast: engines, recording, stacking, random streams, placement."""
