"""What time drives: grants expire, the ledger is sealed, overdue reservations are reported."""
