"""RunPod Serverless, emulated: the public API on one side, the worker SDK's on the other, and bad days on request.

See README.md beside this file for what is faithful, what was decided where RunPod is silent, and the admin API.
"""
