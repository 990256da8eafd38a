"""The loops of the service. Each module holds rounds that ``main`` repeats; none of them imports another.

* ``dispatcher``: claim orders, submit them, record the answers
* ``callbacks``: act on what the provider reported
* ``file_transfers``: put files that stock workers return into the bucket
* ``attempt_checks``: poll jobs, resolve attempts without a job, stop abandoned jobs
* ``timers``: deadlines, backoffs, early cancels, old rows
* ``gauges``: measure
"""
