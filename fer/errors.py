"""The errors that are not bugs: a mistake of the user, and a bad row of data."""


class UserError(Exception):
    """A mistake of the user. One line says what is wrong and how to fix it; the command exits with code 2."""


class BadRow(Exception):
    """One row of data that can't be used. It is rejected with this reason, and the job goes on."""
