"""Cases of a parametrised test that run in the nightly suite alone."""

import pytest


def nightly(*values):
  """One set of arguments of a test, not run by default."""
  return pytest.param(*values, marks=pytest.mark.nightly)


def first_by_default(cases, keep=1):
  """The cases, of which all but the first `keep` are nightly.

  Args:
    cases: Arguments of a test: tuples, or single values.
    keep: Number of cases that run by default.
  """
  cases = [case if isinstance(case, tuple) else (case,) for case in cases]
  return [
    pytest.param(*case) if i < keep else nightly(*case)
    for i, case in enumerate(cases)
  ]
