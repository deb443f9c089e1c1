"""What a run leaves behind for people: the evaluation ledger, metrics, progress, videos and the HTML report."""
