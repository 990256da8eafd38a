"""The rules of a payment: pure and synchronous, without I/O and without a clock of their own.

Webhooks are hints. Whatever they say, the payment is looked up at its provider, and the whole snapshot found there is
folded into our state by ``transitions.apply_snapshot``. The result depends on that snapshot alone: events that are
repeated, reordered, late or lost lead to the same end.
"""
