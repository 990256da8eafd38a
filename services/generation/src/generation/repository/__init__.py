"""All SQL of the service.

* ``orders``: load orders under lock, save what the domain changed, add new ones
* ``endpoints``: endpoints, lanes and caps, as the settings want them
* ``fair_queue``: who is served next (the lanes' weights, the users' turns), within which limits
* ``breaker``: whether an endpoint's queue flows or is paused
* ``attempts``: attempts that are due for a check or a cancel
* ``timers``: orders whose deadline or backoff is over
* ``early_cancels``: cancels that came before their orders
* ``callbacks``: what the provider reported, raw
* ``measurements``: what the gauges show
* ``endpoint_health``: what the provider says of its endpoints
* ``margins``: what orders brought in and cost

**Lock order**, in every transaction: callbacks, endpoint, orders by id, user queues by key.
Callbacks that are locked are skipped. A callback that is acted on as it comes skips orders that are locked. It is added
last: for its row waits only who adds the same one, and who does that has locked no order, or the same one before.
Only the claim locks an endpoint together with something else. It skips locked orders, so it waits for user queues
alone, which everybody locks last and in key order.
Attempts are written under their order's lock; ``attempts`` skips rows that are locked.
"""
