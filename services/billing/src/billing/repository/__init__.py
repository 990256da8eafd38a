"""All SQL of billing: ``ledger`` for the credits and their locks, ``seals`` for the hash chain."""
