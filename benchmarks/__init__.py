"""dechaff beside its peers: the same model, the same inputs, interleaved in one process."""
