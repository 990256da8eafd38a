"""An emulator of RunPod Serverless: the public API, the API of the worker SDK, and faults on request.

README.md says what is faithful, what was decided where RunPod's documentation is silent, and describes the admin API.
"""
