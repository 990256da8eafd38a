"""Stripe and crypto: credits are bought here."""
