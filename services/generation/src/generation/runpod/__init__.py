"""RunPod's API: ``client`` calls it, ``transport`` carries the calls, ``job`` is the body of ``/run``, and ``answers``
decides what an answer proves."""
