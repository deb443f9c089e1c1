"""What a run leaves behind for people: the evaluation ledger, metrics, progress, videos and the HTML report."""


class ReportingError(ValueError):
    """What was recorded, or is to be, cannot be used; the message says what and where."""
