"""Which Transformer families dechaff captures, optimizes and verifies, and through which door."""
