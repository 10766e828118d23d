"""A cluster of three hosts without a common folder but an S3 server: jobs on it, and a host that is cut off.

    python -m tests.cluster.three_hosts

Prints what was seen. `test_three_hosts` runs it.
"""
