"""What ``early-exit`` stands on: layer boundaries, rows of a graph, compaction, exit tests."""
