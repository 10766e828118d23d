"""The two kinds of error that Ferry tells apart from bugs: a person's mistake, and a bad row of data."""


class UserError(Exception):
    """A mistake a person can mend: one line that says what is wrong and what to do. The command exits with 2."""


class BadRow(Exception):
    """One row of data that can't be used. The row is set aside with this reason; the job goes on."""
