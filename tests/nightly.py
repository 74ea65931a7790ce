"""Marks cases of a parametrised test for the nightly suite."""

import pytest


def nightly(*values):
  """One case of a test that runs in the nightly suite only."""
  return pytest.param(*values, marks=pytest.mark.nightly)


def first_by_default(cases, keep=1):
  """Marks all cases but the first `keep` as nightly.

  Args:
    cases: Arguments of a test: tuples, or single values.
    keep: Number of cases that run by default.
  """
  cases = [case if isinstance(case, tuple) else (case,) for case in cases]
  return [
    pytest.param(*case) if i < keep else nightly(*case)
    for i, case in enumerate(cases)
  ]


def nightly_of(cases, slow):
  """Marks the cases that take long as nightly.

  Args:
    cases: Arguments of a test: tuples, or single values.
    slow: The cases that take long.
  """
  missing = [case for case in slow if case not in cases]
  assert not missing, f'no such case: {missing}'
  return [
    nightly(*(case if isinstance(case, tuple) else (case,)))
    if case in slow
    else case
    for case in cases
  ]
