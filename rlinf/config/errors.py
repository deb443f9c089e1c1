"""Errors that are the user's to mend: shown as one message, exit code 2."""


class UserError(ValueError):
    """A request that cannot be met; the message says what was expected, what was given and what to do."""


class ConfigError(UserError):
    """A wrong configuration key or value."""


class DivergedError(UserError, FloatingPointError):
    """A loss or a gradient is NaN or infinite, or all gradients are zero: with these settings training is no use."""
