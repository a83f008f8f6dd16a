"""Pictures of graphs, loops and traces. Reads the levels up to the trace, changes nothing."""
