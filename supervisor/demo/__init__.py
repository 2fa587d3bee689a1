"""A small real system to soak, run as local processes.

Modelled on the provisioning of a directory: a `listener` takes changes of the directory and publishes them raw, a `transformer`
makes messages of them, a `dispatcher` hands each message to every subscription that asked for its topic, and `prefill` fills a new
subscription with what the directory held before. They are written the way such services are: they do not reconnect, have short
timeouts, and leave with a traceback when the broker is gone.
"""
