"""All SQL of the service.

Lock order, in every transaction: callbacks (skipping locked ones) → endpoint → orders by id → user queues by key.
Only the claim takes an endpoint's lock together with others; it skips orders that are locked, so it waits for nothing
but user queues, which everybody locks last and in key order. Attempts are written under their order's lock.
"""
