"""All SQL of payments that writes, and the reads that decide a write. Rows leave it as ``payments.domain.records``.

Lock order: payers (advisory, sorted by user), a payment, everything else of that payment.
"""
