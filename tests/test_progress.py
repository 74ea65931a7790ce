"""Progress lines, speed and signs of life of a run."""

from sr_jax.runs import progress


def test_speed_leaves_out_the_first_step(monkeypatch):
  clock = iter([10.0, 14.0, 14.0])
  monkeypatch.setattr(progress.time, 'perf_counter', lambda: next(clock))
  shown = progress.Progress(100, batch_size=8, enabled=False)
  assert shown.speed(0) == {}
  shown.step(waited=99.0)  # compiles: the clock starts at its end
  shown.step(waited=0.5)
  shown.step(waited=0.5)
  assert shown.speed(3) == {
    'samples_per_second': 4.0,
    'data_wait': 0.25,
    'eta_seconds': 194.0,
  }


def test_a_plain_line_where_there_is_no_terminal(capsys):
  shown = progress.Progress(20_000, batch_size=8, enabled=True)
  values = {'loss': 0.0123456, 'data_wait': 0.0042, 'eta_seconds': 3661.0}
  shown.report(100, values)
  shown.close()
  out = capsys.readouterr().out
  assert out == (
    'step 100/20000  loss 0.012346  data_wait 0.4%  eta_seconds 1:01:01\n'
  )
