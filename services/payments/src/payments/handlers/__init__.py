"""What payments does: one function for each command, reaction and outcome of a call to a provider.

Handlers never commit and never call a provider: their caller does both.
"""
