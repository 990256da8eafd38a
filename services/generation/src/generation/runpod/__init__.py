"""RunPod's API: ``client`` calls it, ``job`` is the body of ``/run``, ``answers`` decides what an answer proves."""
