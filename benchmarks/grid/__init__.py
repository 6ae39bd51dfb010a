"""dechaff and its peers over models, batches, lengths: ``python -m benchmarks.grid``."""
