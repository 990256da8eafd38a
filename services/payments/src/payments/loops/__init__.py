"""What runs without being asked: work at the providers, the sweeps, and the look at what billing has not posted.

Providers are called between two transactions, never inside one, under a lease and behind a fence.
"""
