"""Transactional outbox, relay, inbox, batch consumers, dead letters and broker-amnesia recovery."""
