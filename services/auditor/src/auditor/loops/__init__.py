"""What time drives: the check of every invariant, the comparison of the ledger with its seals, the partitions."""
