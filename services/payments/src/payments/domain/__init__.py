"""The rules of a payment: pure and synchronous, without I/O and without a clock of their own.

Webhooks are hints: the payment is looked up at its provider, and ``transitions.apply_snapshot`` folds the whole
snapshot into our state. The result depends on that snapshot alone: events that are repeated, reordered, late or lost
lead to the same end.
"""
