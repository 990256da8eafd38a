"""Emulators of the payment providers: their HTTP shapes, their signatures, their retries, and their bad days."""
