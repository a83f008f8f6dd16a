"""Graph to graph and graph to loops: one file a pass. `PIPELINE` tuples give the order."""
