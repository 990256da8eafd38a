"""Tamper evidence: a hash chain over the ledger, made behind it, so that no account and no transaction waits for it."""
