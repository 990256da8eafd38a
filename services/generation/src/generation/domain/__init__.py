"""The rules of an order: pure and synchronous, without input or output and without a clock of their own.

* ``statuses``: every state of an order and of an attempt, and what it means
* ``order``: the order, its attempts and the policy
* ``loose_json``: JSON of strangers, field by field
* ``provider_reports``: what the provider reports of a job
* ``operator_words``: words of workers and providers, without addresses and keys
* ``gpu_use``: what an attempt took of a worker, and what that cost
* ``margins``: what orders brought in and cost
* ``provider_events``: what a submission or a report does to an order
* ``storage_events``: what storage's answers do to an order
* ``lifecycle``: what the user's cancel and the passing of time do to an order
* ``transitions``: the ways out of a state: verification, retry, lookup, failure, cancellation
* ``completion``: how an order completes, and what it costs: a late result is free
"""
