"""What time and hints drive: work at the providers, the sweeps, and the report of what billing has not posted.

Providers are called between two transactions, never inside one, under a lease and behind a fence.
"""
