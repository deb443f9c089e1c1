"""Ray: the cluster, where workers run, and calling groups of them. Nothing here knows a model or a simulator."""
