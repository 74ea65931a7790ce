"""The one exception for what a user can cause and mend."""


class UserError(ValueError):
  """A fault of input or usage, told in one line that names it and the mend.

  The command line prints the message and exits with status 2; library callers
  may catch it as the ValueError it is.
  """
